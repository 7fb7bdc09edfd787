"""Evicting tokens: each row's and layer's budget, scores, what is protected, and which tokens that leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from dcache.lm_kv.budgets.allocation import (
    ALWAYS,
    NOTHING,
    keep_global,
    keep_heads,
    keep_uniform,
    layer_budgets,
    preference_budgets,
)
from dcache.lm_kv.budgets.budget import Budget
from dcache.lm_kv.codecs.codec import Plain
from dcache.lm_kv.layers.layer import LayerCache
from dcache.lm_kv.layers.plan import Plan, least, plan_rows, warn_of_pages
from dcache.lm_kv.layers.selection import index_tokens, set_share
from dcache.lm_kv.layers.shared import Shared
from dcache.lm_kv.layers.together import encode_together
from dcache.lm_kv.scoring.scorers import Context
from dcache.lm_kv.storage.store import LayerStore
from dcache.lm_kv.storage.stored import Stored
from dcache.lm_kv.storage.tiers import is_lower


@dataclass(frozen=True)
class Candidates:
    """A layer's tokens and scores `[rows, heads, M]`: +inf where protected, -inf where there is no token.

    `stored` says which tokens are of the row's window.
    `preference`, float `[rows]`, is the layer's claim on a budget that layers share by preference.
    """

    layer: LayerCache
    store: LayerStore
    stored: Stored
    scores: torch.Tensor
    preference: torch.Tensor | None = None


def evict(layers: Sequence[LayerCache], received: Mapping[int, torch.Tensor] | None = None) -> None:
    """Evict tokens of these layers down to their budgets, then encode what leaves the tail.

    Layers without a budget are left alone.

    Args:
        layers: layers of one cache whose tokens have been stored.
        received: index -> what a probe found, for scorers that need it.
    """
    shared, places = layers[0].shared, layers[0].shared.places
    for layer in layers:
        # Also where nothing has to go: a row is evicted at the same columns in any batch.
        layer.since = 0
    pairs = [(layer, layer.store) for layer in layers if layer.store is not None and layer.index in places]
    if not pairs:
        return
    for layer, store in pairs:
        _settle(layer, store)
    plan = plan_rows(shared, pairs[0][1].seen.tolist())
    if shared.policy.selector is not None:
        _index_all(pairs, plan)
        return
    if shared.policy.allocation == "global":
        _evict_together(pairs, plan, received)
    elif shared.policy.allocation == "preference":
        _evict_by_preference(pairs, plan, received)
    else:
        _evict_each(pairs, plan, received)
    for layer, _ in pairs:
        layer.flush()
    encode_together([layer for layer, _ in pairs])


def _index_all(pairs: Sequence[tuple[LayerCache, LayerStore]], plan: Plan) -> None:
    """Pack all tokens of these layers, with what the policy's selector looks at."""
    shared = pairs[0][0].shared
    shares = _shares(pairs, plan) if shared.policy.allocation == "preference" else []
    for layer, store in pairs:
        stored, keep = _held(layer, store)
        index_tokens(store, stored, keep, plan.window, shared, layer.index, layer.state, layer.logits)
    for (_, store), share in zip(pairs, shares, strict=False):
        set_share(store, share)
    for layer, _ in pairs:
        layer.packed()
    if not pairs[0][0].record_past:  # Drafts may read as little as they like: all is read to verify them.
        warn_of_pages(shared, plan.tokens, pairs[0][1])


def _held(layer: LayerCache, store: LayerStore) -> tuple[Stored, torch.Tensor]:
    """A layer's tokens, and those that a policy with a selector keeps, bool `[rows, heads, M]`."""
    shared = layer.shared
    if shared.policy.held is None:
        stored = store.stored()
        return stored, stored.valid
    seen = store.seen.tolist()
    read, held = (budget.tokens(seen) for budget in (shared.budget, Budget(shared.policy.held)))
    # What may be read must be there.
    plan = plan_rows(shared, seen, [max(pair) for pair in zip(read, held, strict=True)])
    candidates = _candidates(layer, store, plan, None)
    tokens = torch.tensor(plan.tokens, device=store.seen.device)
    return candidates.stored, keep_uniform(candidates.scores, tokens)


def _evict_each(
    pairs: Sequence[tuple[LayerCache, LayerStore]], plan: Plan, received: Mapping[int, torch.Tensor] | None
) -> None:
    """Evict from every layer by itself."""
    shared = pairs[0][0].shared
    places = shared.places
    for layer, store in pairs:
        tokens = plan.tokens
        if shared.policy.allocation == "layers":
            tokens = [
                layer_budgets(n, len(places), least(shared, n, s + w), seen)[places[layer.index]]
                for n, s, w, seen in zip(tokens, plan.sinks, plan.window, store.seen.tolist(), strict=True)
            ]
        allowed, stored = torch.tensor(tokens, device=store.seen.device), None
        if shared.policy.coverage is not None:
            stored = store.stored()
            needed = shared.policy.coverage.of(stored, _context(layer, store, stored, plan, received))
            protected = [min(s + w, n) for s, w, n in zip(plan.sinks, plan.window, tokens, strict=True)]
            allowed = allowed.minimum(needed.maximum(torch.tensor(protected, device=allowed.device)))
        over = _over([(layer, store)], allowed)
        if bool(over.any()):
            allowed = _without_slots(shared, allowed, over)
            candidates = _candidates(layer, store, plan, received, stored)
            if shared.policy.allocation == "heads":
                keep = keep_heads(candidates.scores, allowed, shared.policy.floor)
            else:
                keep = keep_uniform(candidates.scores, allowed)
            _pack(candidates, keep, plan, over)


def _settle(layer: LayerCache, store: LayerStore) -> None:
    """Bring the observer's statistics up to date, also of rows that evict nothing: their queries go on."""
    observer = layer.shared.policy.observer
    if observer.beside is not None:
        scores = observer.settle(layer.state, store.stored(), layer.logits)
        if scores is not None:
            store.set_scores(scores)


def _evict_together(
    pairs: Sequence[tuple[LayerCache, LayerStore]], plan: Plan, received: Mapping[int, torch.Tensor] | None
) -> None:
    """Evict from all layers at once: their heads share one budget."""
    allowed = torch.tensor(plan.tokens, device=pairs[0][1].seen.device)
    over = _over(pairs, allowed)
    if not bool(over.any()):
        return
    allowed = _without_slots(pairs[0][0].shared, allowed, over)
    candidates = [_candidates(layer, store, plan, received) for layer, store in pairs]
    scores = [layer.scores for layer in candidates]
    for layer, keep in zip(
        candidates, keep_global(scores, allowed, pairs[0][0].shared.policy.floor), strict=True
    ):
        _pack(layer, keep, plan, over)


def _evict_by_preference(
    pairs: Sequence[tuple[LayerCache, LayerStore]], plan: Plan, received: Mapping[int, torch.Tensor] | None
) -> None:
    """Evict from all layers at once: they get shares of one budget, which their heads keep alike."""
    shared, device = pairs[0][0].shared, pairs[0][1].seen.device
    over = _over(pairs, torch.tensor(plan.tokens, device=device))
    if not bool(over.any()):
        return
    candidates = [_candidates(layer, store, plan, received) for layer, store in pairs]
    budgets = _preferred(pairs, plan, [c.preference for c in candidates], over)
    for place, layer in enumerate(candidates):
        tokens = _without_slots(shared, torch.tensor([row[place] for row in budgets], device=device), over)
        _pack(layer, keep_uniform(layer.scores, tokens), plan, over)


def _shares(pairs: Sequence[tuple[LayerCache, LayerStore]], plan: Plan) -> list[torch.Tensor]:
    """What each layer reads of the budget, float64 `[rows]`, where layers share what is read at a step."""
    tokens = torch.tensor(plan.tokens, device=pairs[0][1].seen.device)
    preferences = [_candidates(layer, store, plan, None).preference for layer, store in pairs]
    budgets = _preferred(pairs, plan, preferences, _over(pairs, tokens))
    # A row that reads everything has the budget of every layer.
    shares = torch.tensor(budgets, device=tokens.device).double() / tokens[:, None]
    return [share.clone() for share in shares.unbind(1)]


def _preferred(
    pairs: Sequence[tuple[LayerCache, LayerStore]],
    plan: Plan,
    preferences: Sequence[torch.Tensor | None],
    over: torch.Tensor,
) -> list[list[int]]:
    """Tokens of each row and layer by what the layers prefer; a row within its budget keeps what it holds."""
    shared = pairs[0][0].shared
    stated = torch.stack([p for p in preferences if p is not None]).T.tolist()
    preference = shared.policy.preference
    wanted = stated if preference is None else [preference.shares(row) for row in stated]
    longest = torch.stack([store.kept().amax(1) for _, store in pairs], 1).tolist()
    rows = zip(plan.tokens, plan.sinks, plan.window, wanted, longest, over.tolist(), strict=True)
    return [
        preference_budgets(n, prefers, least(shared, n, s + w), most) if full else most
        for n, s, w, prefers, most, full in rows
    ]


def _over(pairs: Sequence[tuple[LayerCache, LayerStore]], allowed: torch.Tensor) -> torch.Tensor:
    """Bool `[rows]`: whether all these layers together hold more than `allowed` tokens for each head."""
    stored = torch.stack([store.kept().sum(1) for _, store in pairs]).sum(0)
    return stored > allowed * sum(store.heads for _, store in pairs)


def _without_slots(shared: Shared, allowed: torch.Tensor, over: torch.Tensor) -> torch.Tensor:
    """Tokens that rows over their budget keep beside the slots of those that they lose."""
    return (allowed - shared.policy.reducer.slots * over).clamp_min(0)


def _context(
    layer: LayerCache,
    store: LayerStore,
    stored: Stored,
    plan: Plan,
    received: Mapping[int, torch.Tensor] | None,
) -> Context:
    """What a layer's scorer reads beside its tokens."""
    shared, keys = layer.shared, stored.keys
    return Context(
        layer.index,
        layer.state,
        store.seen,
        layer.logits,
        lambda start, count: shared.mean_rotation(layer.index, keys.shape[3], start, count, keys),
        None if received is None else received[layer.index],
        torch.tensor(plan.tokens, device=store.seen.device),
        shared.layers,
        torch.tensor(plan.window, device=store.seen.device),
    )


def _candidates(
    layer: LayerCache,
    store: LayerStore,
    plan: Plan,
    received: Mapping[int, torch.Tensor] | None,
    stored: Stored | None = None,
) -> Candidates:
    """A layer's tokens and their scores; `stored` are its tokens where they are at hand."""
    stored, shared = store.stored() if stored is None else stored, layer.shared
    context = _context(layer, store, stored, plan, received)
    policy = shared.policy
    scores = _scores(shared, stored, context)
    preference = None if policy.preference is None else policy.preference.of(stored, context)
    sinks = torch.tensor(plan.sinks, device=store.seen.device)[:, None, None]
    window = torch.tensor(plan.window, device=store.seen.device)[:, None, None]
    newest = stored.positions >= store.seen[:, None, None] - window
    scores = scores.masked_fill((stored.positions < sinks) | newest, ALWAYS)
    if policy.reducer.slots and stored.bias is not None:
        # Slots of earlier evictions are no tokens: they go into the new ones.
        scores = scores.masked_fill(stored.bias > 0, NOTHING)
    # What fell to the lower tier does not come back.
    fallen = is_lower(store.segments, stored.valid, policy.reducer.lower)
    scores = scores.masked_fill(~stored.valid | fallen, NOTHING)
    return Candidates(layer, store, replace(stored, newest=newest), scores, preference)


def _scores(shared: Shared, stored: Stored, context: Context) -> torch.Tensor:
    """A layer's scores, or those of the first layer of its group, which has the same tokens."""
    policy, place = shared.policy, shared.places[context.layer]
    first = place - place % policy.layer_group
    if first < place and shared.group_scores is not None and shared.group_scores[0] == first:
        scores = shared.group_scores[1]
    else:
        scores = policy.scorer.score(stored, context).nan_to_num(0.0)
        scores = scores if scores.dtype == torch.float64 else scores.float()
    # Until the last layer of the group has read it.
    last = (place + 1) % policy.layer_group == 0 or place + 1 == len(shared.places)
    shared.group_scores = None if last else (first, scores)
    return scores


def _pack(candidates: Candidates, keep: torch.Tensor, plan: Plan, over: torch.Tensor) -> None:
    """Store what is kept; columns in every row's window stay in the tail, where they can be cropped."""
    layer, store = candidates.layer, candidates.store
    # Of a wider window the columns outside the batch's tail are packed: they take no other tokens either,
    # so that a row keeps what it does by itself. A codec would round them, and rows within their budget.
    columns, policy = min(store.tail.length, *plan.window), layer.shared.policy
    near, newest = None, candidates.stored.newest
    if newest is not None and not isinstance(policy.codec, Plain):
        stays = newest[:, 0, newest.shape[2] - store.tail.length :] | ~over[:, None]
        near = store.tail.window(stays, columns)
    codec = layer.shared.codec(layer.index, layer.state)
    store.pack(candidates.stored, keep, columns, policy.reducer, codec, near=near)
    layer.packed()
