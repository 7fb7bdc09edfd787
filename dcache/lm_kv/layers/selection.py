"""Reading a chosen part of what is stored for one decoded token; everything is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.codecs.codec import Plain
from dcache.lm_kv.layers.pages import chosen
from dcache.lm_kv.layers.shared import Shared
from dcache.lm_kv.layers.windowed import keys_at_start, queries_at, state_at
from dcache.lm_kv.model.attention import Attended, Logits, attend_one
from dcache.lm_kv.model.calls import Call
from dcache.lm_kv.scoring.frames import only_frames
from dcache.lm_kv.scoring.observers import State
from dcache.lm_kv.scoring.window_columns import window_mean
from dcache.lm_kv.storage.parts import DensePart, Part
from dcache.lm_kv.storage.reducers import drop
from dcache.lm_kv.storage.segment import Segment
from dcache.lm_kv.storage.store import LayerStore
from dcache.lm_kv.storage.stored import Stored


def index_tokens(
    store: LayerStore,
    stored: Stored,
    keep: torch.Tensor,
    windows: Sequence[int],
    shared: Shared,
    layer: int,
    state: State,
    logits: Logits,
) -> None:
    """Pack all tokens but each row's window into one segment with an index.

    The columns that are in every row's window stay in the tail. Of wider windows the other tokens make a
    second segment without an index, which is always read as the tail is: a row reads what it does alone.

    Args:
        store: a layer's.
        stored: what `store.stored` gave.
        keep: bool `[B, h, M]`, the tokens that are kept.
        windows: newest tokens of each row that are always read.
        shared: of a policy with a selector.
        layer: the layer's index.
        state: what the policy's observer gathered at the layer.
        logits: how the layer makes logits.
    """
    codec, columns = shared.codec(layer, state), min(store.tail.length, *windows)
    older = stored.first(stored.keys.shape[2] - columns)
    first = store.seen - torch.tensor(windows, device=store.seen.device)
    newest = stored.positions >= first[:, None, None]
    near = newest[:, :, : older.keys.shape[2]]
    older = replace(older, valid=older.valid & ~near)
    packed = keep[:, :, : near.shape[2]] & ~near
    apart = bool((keep[:, :, : near.shape[2]] & near).any())
    store.pack(stored, keep, columns, drop, codec, newest if apart else None)
    segment, *others = store.segments
    selector = shared.policy.selector
    if selector is None or not segment.width:
        return
    # The index is made of keys as they are known now, which the codec may round.
    exact = segment if isinstance(codec, Plain) else drop(older, packed, Plain())
    if shared.calibration is not None:
        state = {**state, "channels": shared.calibration.tensor("channels", layer).to(exact.lengths.device)}
    if selector.reads_attention and "query" in state:
        received = window_mean(older, state, logits)[packed]
        state = {**state, "received": exact.pad(received)}
    places = exact.pad(exact.places())
    keys, state = exact.pad(exact.keys), {**state, "places": places.long()}
    if selector.distance is not None:
        keys = keys_at_start(shared, layer, keys, places)
        state = state_at(shared, layer, state, selector.distance)
    index = selector.index(keys, exact.valid, state)
    store.segments = (replace(segment, index=index), *others)


def set_share(store: LayerStore, share: torch.Tensor) -> None:
    """Let an indexed layer read this share of the budget, float64 `[B]`."""
    indices = [(segment, segment.index) for segment in store.segments]
    store.segments = tuple(
        segment if index is None else replace(segment, index={**index, "share": share})
        for segment, index in indices
    )


def read_one(
    store: LayerStore,
    shared: Shared,
    layer: int,
    query: torch.Tensor,
    logits: Logits,
    state: State,
    valid: torch.Tensor | None = None,
) -> tuple[Attended, torch.Tensor | None]:
    """Attention of one query `[B, H, 1, d]` on what it reads of a layer, where its own token is stored.

    Args:
        store: the layer's.
        shared: of the cache.
        layer: the layer's index.
        query: the query.
        logits: how the layer makes logits.
        state: what the policy's observer gathered at the layer.
        valid: bool `[B, 1]`, False where the token is a pad; None where none is.

    Returns:
        The result, and float `[B]` as `read_parts` gives it.
    """
    parts, read = read_parts(store, shared, layer, _asked(store, shared, layer, query, state), logits)
    if valid is not None:
        parts = [*parts[:-1], _with_newest(store.tail.part())]
    chooses = layer in shared.choosers
    attended = attend_one(query, parts, logits, "sum" if chooses else shared.policy.observer.statistic)
    if attended.columns is not None and valid is not None:
        attended = replace(attended, columns=attended.columns * valid[:, :, None])
    if chooses and attended.columns is not None:
        shared.choice = by_position(store, attended.columns)
    return Attended(attended.output) if chooses else attended, read


def _with_newest(tail: DensePart) -> DensePart:
    """A tail of which every row sees the newest column: a pad sees itself, so that its output is finite."""
    newest = torch.arange(tail.columns, device=tail.keys.device) == tail.columns - 1
    return tail if tail.valid is None else replace(tail, valid=tail.valid | newest)


def _asked(store: LayerStore, shared: Shared, layer: int, query: torch.Tensor, state: State) -> torch.Tensor:
    """The query by which a decoded token chooses: its own, or the question that an observer remembers."""
    selector = shared.policy.selector
    if selector is None or layer not in shared.places:
        return query
    if selector.distance is None:
        return selector.asks(query, state)
    own = queries_at(shared, layer, query, store.seen[:, None] - 1, selector.distance)
    if "asked" not in state:
        return own
    return torch.where(state["asks"][:, None, None, None], state["asked"].to(own.dtype), own)


def asked_parts(
    store: LayerStore,
    shared: Shared,
    layer: int,
    query: torch.Tensor,
    call: Call,
    logits: Logits,
    fresh: DensePart,
) -> list[Part]:
    """What a call's queries `[B, H, S, d]` read of what was stored before it: all, or by their question."""
    policy = shared.policy
    question, selector = policy.question, policy.selector
    if selector is None or question is None or shared.reader is not None:
        return store.parts(fresh)
    if layer not in shared.places or not store.segments:
        return store.parts(fresh)
    if selector.distance is not None:
        query = queries_at(shared, layer, query, call.placed(store.seen)[0], selector.distance)
    frames = only_frames(call.valid, shared.marked) if policy.local_frames else None
    return read_parts(store, shared, layer, question.of(query, call.valid), logits, frames)[0]


def by_position(store: LayerStore, columns: torch.Tensor) -> torch.Tensor:
    """Statistics of a layer's columns `[B, h, M]`, in the order of `parts`, as `[B, h, positions]`."""
    placed = columns.new_zeros(*columns.shape[:2], int(store.seen.max()))
    positions = [segment.pad(segment.places()) for segment in store.segments]
    valid = [segment.valid for segment in store.segments]
    tail = store.tail
    positions.append(tail.positions[:, None].expand(-1, store.heads, -1))
    valid.append(tail.valid[:, None].expand(-1, store.heads, -1))
    there = torch.cat(valid, 2)
    # Pads have position 0 like a row's first token, and no weight.
    return placed.scatter_add_(2, torch.cat(positions, 2).long() * there, columns * there)


def _index(segment: Segment, shared: Shared) -> dict[str, torch.Tensor] | None:
    """What the selector looks at: the segment's index, or what another layer chose."""
    if shared.choice is None:
        return segment.index
    if shared.choice.shape[1] != segment.lengths.shape[1]:
        raise DcacheError(
            f"a layer with {segment.lengths.shape[1]} KV heads cannot read what one with "
            f"{shared.choice.shape[1]} chose: choose a policy whose layers choose by themselves"
        )
    places = segment.pad(segment.places()).long()
    return {"logits": shared.choice.gather(2, places).clamp_min(1e-30).log()}


def read_parts(
    store: LayerStore,
    shared: Shared,
    layer: int,
    query: torch.Tensor,
    logits: Logits,
    frames: torch.Tensor | None = None,
) -> tuple[list[Part], torch.Tensor | None]:
    """What one query reads of a layer: all there is, or by the policy's selector.

    Args:
        store: the layer's.
        shared: of the cache.
        layer: the layer's index.
        query: `[B, H, 1, d]`, at the selector's distance.
        logits: how the layer makes logits.
        frames: bool `[B]`, rows that read sinks and tail alone where not all fits; None where none do.

    Returns:
        The parts, and float `[B]`, the tokens that a KV head reads; None where all are read.
    """
    selector = shared.policy.selector
    if selector is None or layer not in shared.places:
        return store.parts(), None
    if layer in shared.choosers or (shared.choosers and shared.choice is None):
        return store.parts(), None
    # Segments behind the first one are of tokens that are always read.
    newest = store.tail.valid.sum(1) + sum(segment.lengths[:, 0] for segment in store.segments[1:])
    read = newest.float()
    tokens = shared.allowed(store.seen)
    sinks = tokens.div(2, rounding_mode="floor").clamp_max(shared.policy.sinks)
    parts: list[Part] = []
    for number, segment in enumerate(store.segments):
        index = None if number else _index(segment, shared)
        if index is None:
            parts.append(segment.part())
            continue
        allowed = tokens
        if "share" in index:
            allowed = (tokens * index["share"] + 1e-9).floor().long()
        limit = (allowed - newest).clamp_min(0)
        if frames is not None:
            # A text that fits is read anyway; pages of sinks are read as a whole.
            near = frames & (store.seen > tokens)
            limit = torch.where(near, -(-sinks // selector.page) * selector.page, limit)
        part, more = chosen(segment, index, selector, query, logits, limit, sinks)
        parts.append(part)
        read = read + more
    return [*parts, store.tail.part()], read
