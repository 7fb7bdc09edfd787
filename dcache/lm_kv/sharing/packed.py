"""A padded batch that a model reads as one row: attention alone sees the batch's rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.cache import KVCache
from dcache.lm_kv.layers.layer import LayerCache
from dcache.lm_kv.model import adapter


class _PackedLayer(adapter.TaggedLayer):
    """A layer that takes a packed row apart for the layer of a cache that it stands for.

    A block mask would say the same; taken apart, no product of two texts is formed and observers see the rows
    that they know.
    """

    def __init__(self, layer: LayerCache, mask: torch.Tensor) -> None:
        super().__init__()
        self.layer, self.mask = layer, mask
        self.slots = mask.flatten().nonzero()[:, 0]

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Attention of each text on itself: `[1, N, H, d_v]` of a row `[1, H, N, d]`."""
        query, key, value = (self._unpacked(states) for states in (query, key, value))
        out = self.layer.attend(module, query, key, value, self.mask, scaling, **kwargs)
        return out.flatten(0, 1)[self.slots][None]

    def _unpacked(self, states: torch.Tensor) -> torch.Tensor:
        """`[1, heads, N, d]` as `[B, heads, T, d]`, 0 at pads."""
        rows, columns = self.mask.shape
        padded = states.new_zeros(rows * columns, states.shape[1], states.shape[3])
        padded[self.slots] = states[0].transpose(0, 1)
        return padded.unflatten(0, (rows, columns)).transpose(1, 2)


class _PackedCache(adapter.LiveCache):
    """Stands for a cache while the model reads its batch packed."""

    def __init__(self, cache: KVCache, call: Mapping[str, Any]) -> None:
        self.compressed_layers = cache.compressed_layers
        super().__init__(layers=[_PackedLayer(layer, call["attention_mask"]) for layer in cache.layers])
        self.cache, self.call = cache, call

    def begin(self, decoder: torch.nn.Module, call: Mapping[str, Any]) -> None:
        """The padded call begins."""
        self.cache.begin(decoder, self.call)

    def end(self, completed: bool) -> None:
        """It ended."""
        self.cache.end(completed)


@torch.no_grad()
def read_packed(cache: KVCache, ids: torch.Tensor, mask: torch.Tensor) -> None:
    """Read all but the last column of a batch into a cache, as one row without pads.

    Args:
        cache: an empty one.
        ids: int64 `[B, T]`, pads in front.
        mask: `[B, T]`, 0 at pads.

    Raises:
        DcacheError: as `prepacking` says.
    """
    _check(cache, ids, mask)
    device = next(cache.decoder.parameters()).device
    ids, there = ids[:, :-1].to(device), mask[:, :-1].to(device) != 0
    positions = (there.long().cumsum(1) - 1).clamp_min(0)
    call = {"input_ids": ids, "attention_mask": there, "position_ids": positions}
    cache.decoder(
        input_ids=ids[there][None],
        position_ids=positions[there][None],
        past_key_values=_PackedCache(cache, call),
        use_cache=True,
    )


def _check(cache: Any, ids: Any, mask: Any) -> None:
    if not isinstance(cache, KVCache):
        raise DcacheError(f"prepacking fills a KVCache, got {type(cache).__name__}: make an empty one")
    if len(cache.compressed_layers) < len(cache.layers):
        raise DcacheError(
            f"{type(cache.decoder).__name__} has layers whose cache is the library's, which cannot tell "
            "texts in one row apart: prepacking needs full attention in every layer"
        )
    if cache.get_seq_length():
        raise DcacheError(
            f"this cache holds {cache.get_seq_length()} columns already: prepacking reads a batch from its "
            "beginning, so give an empty cache or call reset()"
        )
    for name, tensor in (("input_ids", ids), ("attention_mask", mask)):
        if not isinstance(tensor, torch.Tensor) or tensor.ndim != 2 or tensor.shape[1] < 2:
            what = tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else repr(tensor)
            raise DcacheError(f"{name} must be [rows, columns] with at least two columns, got {what}")
    if ids.shape != mask.shape or bool((mask[:, -1] == 0).any()) or not bool(mask[:, :-1].any()):
        raise DcacheError(
            "prepacking reads a batch with pads in front: attention_mask must have the shape of input_ids, "
            "and a token in every row's last column and in front of it, so pad on the left"
        )
