"""Rows of a cache, in all layers and in the text that was seen: kept, reordered, repeated, or taken over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.layers.layer import LayerCache
from dcache.lm_kv.model.adapter import LiveCache
from dcache.lm_kv.model.attention import Logits
from dcache.lm_kv.model.text import Text
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.scoring.observers import Nothing
from dcache.lm_kv.storage.store import LayerStore


class RowCache(LiveCache):
    """A cache that remembers the text of its rows."""

    _text: Text
    _failed = False

    def check_complete(self) -> None:
        """Refuse to go on with what a forward left that did not end.

        Raises:
            DcacheError: the cache's last forward did not.
        """
        if self._failed:
            raise DcacheError(
                "this cache is incomplete: an exception broke off its last forward in the middle. Make a new "
                "one, or call reset() and run the text again."
            )

    def fork(self) -> RowCache:
        """A second cache that goes on from here."""
        raise NotImplementedError

    def __copy__(self) -> RowCache:
        return self.fork()

    def __deepcopy__(self, memo: dict[int, Any]) -> RowCache:
        return self.fork()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise DcacheError(
            f"a {type(self).__name__} cannot be pickled, for its model would go with it: use save and load"
        )

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep these rows, in this order."""
        with self._counts_shared():
            for layer in self.layers:
                layer.reorder_cache(beam_idx)
        self._text.select_rows(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows, in this order."""
        with self._counts_shared():
            super().batch_select_indices(indices)
        self._text.select_rows(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        with self._counts_shared():
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
            DcacheError: the cache is incomplete, nothing is stored, or the policy reads queries and none came
                since `fill`.
        """
        self.check_complete()
        layer = self.layers[self.compressed_layers[0]]
        if layer.store is None:
            raise DcacheError("this cache holds nothing yet: run the model with it first")
        policy, store = self._policy(), layer.store
        scores = [store.tail.score, *(segment.score for segment in store.segments)]
        seen = bool(layer.state) or any(bool(score.any()) for score in scores if score is not None)
        if policy.observer != Nothing() and not seen:
            raise DcacheError(
                f"{policy.name} reads the model's queries, and none came since the cache was filled: run the "
                "question first, or choose a policy that reads keys alone, such as keydiff"
            )

    @contextlib.contextmanager
    def _counts_shared(self) -> Iterator[None]:
        """Layers that share their counts of tokens share them again, as they are after this block.

        What is computed of them once for all layers is known by the tensor.
        """
        stores = [layer.store for layer in self._compressed() if layer.store is not None]
        before = [(store.seen, store.offset) for store in stores]
        yield
        known: dict[int, torch.Tensor] = {}
        for store, (seen, offset) in zip(stores, before, strict=True):
            store.seen = known.setdefault(id(seen), store.seen)
            store.offset = known.setdefault(id(offset), store.offset)

    def _compressed(self) -> list[LayerCache]:
        """The layers with full attention."""
        return [self.layers[i] for i in self.compressed_layers]

    def _others(self) -> list[Any]:
        """The library's own layers."""
        return [layer for i, layer in enumerate(self.layers) if i not in self.compressed_layers]

    def _policy(self) -> Policy:
        policy: Policy = self.layers[self.compressed_layers[0]].shared.policy
        return policy
