"""Rows of a cache, in all layers and in the text that was seen: kept, reordered, repeated, or taken over."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.model.adapter import LiveCache
from dcache.lm_kv.model.attention import Logits
from dcache.lm_kv.model.text import Text
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.scoring.observers import Nothing
from dcache.lm_kv.storage.store import LayerStore


class RowCache(LiveCache):
    """A cache that remembers the text of its rows."""

    _text: Text

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep these rows, in this order."""
        for layer in self.layers:
            layer.reorder_cache(beam_idx)
        self._text.select_rows(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows, in this order."""
        super().batch_select_indices(indices)
        self._text.select_rows(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        super().batch_repeat_interleave(repeats)
        self._text.repeat_rows(repeats)

    def fill(
        self,
        keys: Mapping[int, torch.Tensor],
        values: Mapping[int, torch.Tensor],
        logits: Mapping[int, Logits],
        ids: torch.Tensor,
        valid: torch.Tensor,
    ) -> None:
        """Take over a text whose keys and values were computed elsewhere; nothing is evicted by it.

        What observers gather begins behind it.

        Args:
            keys: of each layer, `[B, h, T, d]`, turned to their positions.
            values: of each layer, `[B, h, T, d_v]`.
            logits: how each layer makes logits.
            ids: int64 `[B, T]`.
            valid: bool `[B, T]`, False at pads.

        Raises:
            DcacheError: the cache holds something already, calls to come are marked, or the policy stores
                what attention is given, which such a text lacks.
        """
        held = self.get_seq_length(self.compressed_layers[0])
        if held:
            raise DcacheError(f"this cache holds {held} tokens already: give an empty one, or call reset()")
        if self.layers[self.compressed_layers[0]].shared.marks is not None:
            raise DcacheError(
                "marks are of the columns of calls, and this text comes by none: mark what comes behind "
                "it, after it is there"
            )
        if any(self.layers[i].shared.width(i) for i in self.compressed_layers):
            raise DcacheError(
                f"{self._policy().name} stores the inputs of attention, which texts computed elsewhere lack: "
                "fill the cache by calls of the model, or use lm_kv.kivi()"
            )
        positions, seen = (valid.long().cumsum(1) - 1).clamp_min(0), valid.sum(1)
        pads = None if bool(valid.all()) else valid
        for index in self.compressed_layers:
            layer = self.layers[index]
            store = LayerStore(keys[index], values[index], layer.shared.policy.observer.beside)
            store.append(keys[index], values[index], positions, pads, seen)
            layer.restore(store, {}, logits[index], ids.shape[1], 0)
        if self._policy().scorer.probes:
            self._text.append(ids, valid)

    def check_ready(self) -> None:
        """Refuse to evict where nothing is known of the tokens.

        Raises:
            DcacheError: nothing is stored, or the policy reads queries and none came since `fill`.
        """
        layer = self.layers[self.compressed_layers[0]]
        if layer.store is None:
            raise DcacheError("this cache holds nothing yet: run the model with it first")
        policy, score = self._policy(), layer.store.stored().score
        seen = bool(layer.state) or (score is not None and bool(score.any()))
        if policy.observer != Nothing() and not seen:
            raise DcacheError(
                f"{policy.name} reads the model's queries, and none came since the cache was filled: run the "
                "question first, or choose a policy that reads keys alone, such as keydiff"
            )

    def _policy(self) -> Policy:
        policy: Policy = self.layers[self.compressed_layers[0]].shared.policy
        return policy
