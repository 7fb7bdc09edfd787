"""The figures of a cache, from its layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dcache.lm_kv.cache_stats import CacheStats
from dcache.lm_kv.layers.layer import LayerCache
from dcache.lm_kv.layers.shared import Shared
from dcache.lm_kv.storage.store import LayerStore
from dcache.util.bytes import bytes_of


def figures(
    shared: Shared,
    layers: Sequence[LayerCache],
    library: Sequence[torch.Tensor],
    text: Sequence[torch.Tensor],
) -> CacheStats:
    """Count tokens and bytes of the layers.

    Args:
        shared: the cache's state.
        layers: its compressed layers.
        library: what the library's own layers hold.
        text: what is remembered of the text.
    """
    stores = [layer.store for layer in layers if layer.store is not None]
    selects = shared.policy.selector is not None
    # All tokens are kept where a selector reads some of them, unless the policy says how many.
    evicts = (not selects or shared.policy.held is not None) and shared.policy.joint is None
    kept = (
        torch.stack([store.kept().float().mean(1) for store in stores]).mean(0) if stores else torch.zeros(0)
    )
    return CacheStats(
        method=shared.policy.name,
        budget=str(shared.budget),
        allocation=shared.policy.allocation,
        seen=tuple(stores[0].seen.tolist()) if stores else (),
        kept=tuple(kept.tolist()),
        bytes_held=shared.bytes_held + bytes_of([*library, *text]),
        bytes_full=sum(_full_bytes(store) for store in stores) + bytes_of(library),
        peak_bytes=shared.peak_bytes,
        evictions=max((layer.evictions for layer in layers), default=0) if evicts else 0,
        read=_read(layers) if selects else (),
        bytes_host=sum(segment.bytes_in("host") for store in stores for segment in store.segments),
        bytes_disk=sum(segment.bytes_in("disk") for store in stores for segment in store.segments),
    )


def tensors_of(part: Any) -> list[torch.Tensor]:
    """Every tensor that one of the library's cache layers, or another plain object, holds."""
    values = list(vars(part).values())
    nested = [v for value in values if isinstance(value, dict) for v in value.values()]
    return [value for value in (*values, *nested) if isinstance(value, torch.Tensor)]


def kept_by_head(layers: Sequence[LayerCache]) -> dict[int, tuple[float, ...]]:
    """Layer index -> mean over the rows of the tokens that each KV head holds."""
    stores = [(layer.index, layer.store) for layer in layers]
    return {i: tuple(store.kept().float().mean(0).tolist()) for i, store in stores if store is not None}


def _read(layers: Sequence[LayerCache]) -> tuple[float, ...]:
    """Mean tokens of each row that a KV head read at the last step; layers without a choice read all."""
    pairs = [(layer.read, layer.store) for layer in layers if layer.store is not None]
    if all(read is None for read, _ in pairs):
        return ()
    counts = [store.kept().float().mean(1) if read is None else read for read, store in pairs]
    figures: list[float] = torch.stack(counts).mean(0).tolist()
    return tuple(figures)


def _full_bytes(store: LayerStore) -> int:
    """Bytes of all seen tokens' keys and values."""
    keys, values = store.tail.keys, store.tail.values
    token = keys.shape[3] * keys.element_size() + values.shape[3] * values.element_size()
    return int(store.seen.sum()) * store.heads * token
