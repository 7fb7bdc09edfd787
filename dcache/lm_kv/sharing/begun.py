"""Caches that begin behind texts which all their rows read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.cache import KVCache
from dcache.lm_kv.codecs.codec import Codec, Plain
from dcache.lm_kv.layers.layer import LayerCache
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.scoring.scorers import Recency
from dcache.lm_kv.storage.front import Block, Front
from dcache.lm_kv.storage.reducers import drop
from dcache.lm_kv.storage.segment import Segment
from dcache.lm_kv.storage.store import LayerStore
from dcache.lm_kv.storage.stored import gather
from dcache.util.checks import check_whole


def check_text(cache: Any, name: str, what: str = "prefix") -> KVCache:
    """A cache of one row whose text others are to read.

    Args:
        cache: what a user gave.
        name: the function's, for messages.
        what: the argument's.

    Raises:
        DcacheError: it is no KVCache, is empty, has several rows, moves its tokens or reads only some, or
            some layers of its model have the library's cache.
    """
    if not isinstance(cache, KVCache):
        raise DcacheError(
            f"{what} must be a KVCache that has read one text, got {type(cache).__name__}: make one with "
            "lm_kv.KVCache(model, 'keydiff', budget=1.0) and call the model with it"
        )
    if len(cache.compressed_layers) < len(cache.layers):
        raise DcacheError(
            f"{type(cache.decoder).__name__} has layers whose cache is the library's, which count pads "
            f"between texts: {name} shares a text where every layer has full attention"
        )
    rows = [layer.batch_size for layer in layers_of(cache)]
    if rows[0] != 1:
        held = "holds nothing yet" if rows[0] < 0 else f"holds {rows[0]} rows"
        raise DcacheError(f"{name} shares one text, and this cache {held}: run the model on one text with it")
    if cache.policy.positions != "original" or cache.policy.selector is not None:
        raise DcacheError(
            f"{name} reads all tokens of a text at their own places, and {cache.policy.name} moves them or "
            "reads some at a step: give a cache of another policy, such as kvzip"
        )
    if layers_of(cache)[0].store.front is not None:  # type: ignore[union-attr]
        raise DcacheError(
            f"{name} takes a text that stands by itself, and this cache begins behind another one"
        )
    return cache


def layers_of(cache: KVCache) -> list[LayerCache]:
    """The layers with full attention."""
    return [cache.layers[i] for i in cache.compressed_layers]


def segments_of(store: LayerStore) -> list[Segment]:
    """All that a store holds as segments; what is packed already is shared, the tail is copied."""
    valid = store.tail.valid[:, None].expand(-1, store.heads, -1)
    return [*store.segments, drop(gather((), store.tail), valid, Plain())]


def length_of(cache: KVCache) -> tuple[int, int]:
    """Columns and true tokens of a text."""
    store = _store(layers_of(cache)[0])
    return store.columns, int(store.seen[0])


def blocks_of(layer: LayerCache) -> tuple[Block, ...]:
    """A layer's text, for others to read."""
    return tuple(Block(segment) for segment in segments_of(_store(layer)))


def begin(
    source: KVCache,
    name: str,
    rows: int,
    front: Callable[[LayerCache], Front],
    length: tuple[int, int],
    codec: Codec | Policy | None = None,
) -> KVCache:
    """A cache whose rows go on behind shared texts; it keeps all that they write.

    Args:
        source: a cache of one row; it is not changed.
        name: of the method, for reports.
        rows: of the new cache.
        front: a layer of `source` -> what all rows read there.
        length: columns and true tokens in front of the first token behind the texts.
        codec: how the rows store what they write; None for plain.

    Raises:
        DcacheError: rows is no whole number of at least 1.
    """
    check_whole("rows", rows, 1)
    policy = Policy(name, scorer=Recency(), budget=1.0, sinks=0, window=0)
    cache = KVCache(source.decoder, policy, codec=codec)
    # Texts in front were encoded by the source's codecs, which read its sums over layers.
    layers_of(cache)[0].shared.carry = layers_of(source)[0].shared.carry.fork()
    for layer, other in zip(layers_of(source), layers_of(cache), strict=True):
        text = _store(layer)
        tail = text.tail
        keys, values = (states[:, :, :0].expand(rows, -1, -1, -1) for states in (tail.keys, tail.values))
        store = LayerStore(keys, values, width=other.shared.width(other.index))
        store.front, store.columns = front(layer), length[0]
        store.seen = torch.full((rows,), length[1], device=keys.device)
        store.offset = text.offset.expand(rows).clone()
        other.restore(store, {}, layer.logits, 0, 0)
    return cache


def _store(layer: LayerCache) -> LayerStore:
    if layer.store is None:
        raise DcacheError("this cache holds nothing yet: run the model with it first")
    return layer.store
