"""An edit of a text that a cache holds."""

from __future__ import annotations

from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.cache import KVCache
from dcache.lm_kv.codecs.codec import Plain
from dcache.lm_kv.model.families import decoder_of
from dcache.lm_kv.model.partial import compute
from dcache.lm_kv.model.states import States
from dcache.lm_kv.reuse.chunk import row_of
from dcache.lm_kv.reuse.known import known_of
from dcache.util.checks import check_whole


@torch.no_grad()
def edit(model: Any, cache: KVCache, start: int, stop: int, ids: torch.Tensor | None = None) -> KVCache:
    """The cache of an edited text, by `pie`: the new tokens are computed, later keys turned to their places.

    Tokens before the edit are as they were, so an edit at the end of the text is exact, and so is any edit in
    a model of one layer.

    Args:
        model: the cache's model.
        cache: one row, of which every token is held as it came; it stays as it is.
        start: index of the first token that is replaced.
        stop: index behind the last one; `start` to insert.
        ids: int64 `[n]`, what stands there instead; None to delete.

    Returns:
        A new cache of the same policy; what its observer gathers begins behind the text.

    Raises:
        DcacheError: tokens were evicted or encoded, the cache has several rows, the span lies outside the
            text, or keys cannot be turned.
    """
    decoder = decoder_of(model)
    if not isinstance(cache, KVCache) or cache.decoder is not decoder:
        what = "another model's" if isinstance(cache, KVCache) else f"a {type(cache).__name__}"
        raise DcacheError(f"cache is {what}: give a KVCache and the model that filled it")
    known = known_of(decoder)
    before = _states_of(cache, known.layers)
    length = next(iter(before.keys.values())).shape[2]
    new = before.keys[known.layers[0]].new_zeros(1, 0, dtype=torch.long)
    new = new if ids is None else row_of(ids, decoder, "ids")
    _check_span(start, stop, length, new.shape[1])
    edited = States(logits=dict(known.logits))
    total, behind = length - (stop - start) + new.shape[1], start + new.shape[1]
    shift = torch.full((1, length - stop), behind - stop, device=new.device)
    for layer in known.layers:
        keys, values = before.keys[layer], before.values[layer]
        edited.reserve(layer, total, keys, values)
        edited.put(layer, slice(0, start), keys[:, :, :start], values[:, :, :start])
        later = keys[:, :, stop:]
        if behind != stop and length > stop:
            later = known.rotary.turn(layer, later, shift, "shift")
        edited.put(layer, slice(behind, total), later, values[:, :, stop:])
    text = new.new_zeros(1, total)
    text[:, start:behind] = new
    compute(decoder, edited, text, torch.arange(start, behind, device=new.device))
    result = KVCache(model, cache.policy)
    result.fill(edited.keys, edited.values, edited.logits, text, torch.ones_like(text, dtype=torch.bool))
    return result


def _check_span(start: int, stop: int, length: int, new: int) -> None:
    """Refuse spans that lie outside a text, change nothing of it or leave nothing."""
    check_whole("start", start, 0)
    check_whole("stop", stop, 0)
    if not start <= stop <= length or start + new == stop == start or not length - (stop - start) + new:
        raise DcacheError(
            f"an edit needs 0 <= start <= stop <= {length}, some new ids or some tokens that go, and a token "
            f"that stays; got {start} to {stop} and {new} new ids"
        )


def _states_of(cache: KVCache, layers: list[int]) -> States:
    """Keys and values of every token of a cache with one row.

    Raises:
        DcacheError: some were evicted or encoded, nothing is stored, or there are several rows.
    """
    policy = cache.policy
    if policy.scorer.probes:
        raise DcacheError(
            f"{policy.name} reads the text again, and an edit does not know all of it: edit a cache of "
            "another policy"
        )
    states = States()
    for layer in layers:
        store = cache.layers[layer].store
        if store is not None and store.front is not None:
            raise DcacheError(
                f"this cache begins behind text that {policy.name} shares, whose tokens are not its own: "
                "edit a cache that has read the whole text"
            )
        if store is None or not int(store.seen.sum()):
            raise DcacheError("this cache holds nothing yet: run the model with it first")
        if len(store.seen) > 1:
            raise DcacheError(
                f"this cache has {len(store.seen)} rows: edit them one by one, each after "
                "`row = cache.fork(); row.batch_select_indices(torch.tensor([index]))`"
            )
        plain = all(isinstance(segment.codec, Plain) for segment in store.segments)
        if not plain or not bool((store.kept() == store.seen[:, None]).all()):
            raise DcacheError(
                "tokens of this cache were evicted or encoded, and an edit needs all of them as they came: "
                "edit before that (cache.hold()), or a cache that keeps all as it is, such as keydiff's with "
                "budget=1.0"
            )
        stored = store.stored()
        # Segments and tail have a head's tokens in ascending order; what is no token goes to the end.
        order = stored.positions.masked_fill(~stored.valid, stored.positions.max() + 1).argsort(-1)
        order = order[..., : int(store.seen)]
        for side, tensor in ((states.keys, stored.keys), (states.values, stored.values)):
            side[layer] = tensor.gather(2, order[..., None].expand(-1, -1, -1, tensor.shape[3]))
    return states
