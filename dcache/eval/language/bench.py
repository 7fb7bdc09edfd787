"""What a policy's cache costs: first token, decode steps and bytes, against transformers' DynamicCache.

Other libraries' caches take turns in the same rounds, where they are asked for (`peers.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from dcache import lm_kv
from dcache.eval.language.peers import Peer, Peers, held_by, peak_of
from dcache.eval.language.policies import PolicyEntry, budget_text
from dcache.eval.rows import aligned
from dcache.util.bytes import format_bytes

PLAIN = "DynamicCache"
# Tokens of a CPU's first round: long prompts take minutes there, and are no warmer.
WARM_UP = 1024
HEADS = ("cache", "tokens", "first token", "step", "held", "peak")


@dataclass(frozen=True)
class Turn:
    """One prompt and some decoded tokens with one cache.

    Attributes:
        first: seconds of the prompt, eviction included.
        step: median seconds of a decode step.
        held: bytes of the cache after the last step.
        peak: the most bytes that it held.
    """

    first: float
    step: float
    held: int
    peak: int


@dataclass(frozen=True)
class CostRow:
    """A cache at a length of prompt: medians over the rounds.

    Attributes:
        name: the cache.
        tokens: length of the prompt.
        first, step: seconds.
        first_share, step_share: of DynamicCache's in the same round.
        held, peak: bytes.
        held_share: of DynamicCache's.
    """

    name: str
    tokens: int
    first: float
    step: float
    first_share: float
    step_share: float
    held: int
    peak: int
    held_share: float


def costs(
    model: Any,
    entries: Sequence[PolicyEntry],
    budgets: Sequence[float],
    lengths: Sequence[int],
    steps: int,
    rounds: int,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
    peers: Peers | None = None,
) -> list[CostRow]:
    """Let all caches take turns on prompts of random tokens; the first round warms up and is not counted.

    Args:
        model: a causal language model of transformers.
        entries: the policies.
        budgets: for policies without a budget of their own.
        lengths: tokens of the prompts.
        steps: decoded tokens of a turn.
        rounds: counted turns of each cache.
        progress: called with what is at work, the number done and all.
        peers: other libraries' caches; one that fails is left out from then on, with the reason.
    """
    peers = Peers() if peers is None else peers
    caches = {**_caches(model, entries, budgets), **peers.caches}
    total = len(lengths) * (rounds + 1) * len(caches)
    rows: list[CostRow] = []
    done = 0
    for length in lengths:
        ids = _random_tokens(model, length)
        first = ids if ids.is_cuda else ids[:, :WARM_UP]
        turns: list[dict[str, Turn]] = []
        for number in range(rounds + 1):
            turns.append({})
            for name, cache in caches.items():
                progress(f"{name}, {length} tokens", done, total)
                done += 1
                if name in peers.left_out:
                    continue
                try:
                    prompt = ids if number else first
                    turns[-1][name] = turn(model, cache.make(), prompt, steps, cache.prompt)
                except Exception as error:
                    if name not in peers.caches:
                        raise
                    peers.left_out[name] = f"{type(error).__name__}: {error}"
        rows += [_row(name, length, turns[1:]) for name in caches if name not in peers.left_out]
    progress("done", total, total)
    return rows


@torch.no_grad()
def turn(
    model: Any,
    cache: Any,
    ids: torch.Tensor,
    steps: int,
    prompt: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Turn:
    """Run a prompt and decode with one cache.

    Args:
        model: the model.
        cache: an empty cache.
        ids: int64 `[1, T]`, the prompt.
        steps: tokens to decode; the likeliest each time.
        prompt: a context for the prompt.
    """
    ours = isinstance(cache, lm_kv.KVCache)
    with nullcontext([0]) if ours else peak_of(model, cache) as peak, prompt():
        began = _now(ids)
        logits = model(ids, past_key_values=cache, logits_to_keep=1).logits
        first = _now(ids) - began
    seconds = []
    for index in range(steps):
        token = logits[:, -1:].argmax(-1)
        places = torch.full((1, 1), ids.shape[1] + index, device=ids.device)
        began = _now(ids)
        logits = model(token, past_key_values=cache, position_ids=places).logits
        seconds.append(_now(ids) - began)
    held, most = held_by(cache), peak[0]
    if ours:
        stats = cache.stats()
        held, most = stats.bytes_held, stats.peak_bytes
    return Turn(first, median(seconds), held, max(held, most))


def table(rows: Sequence[CostRow]) -> str:
    """The rows as text, one block for each length."""
    return aligned([HEADS, *map(_cells, rows)])


def _random_tokens(model: Any, length: int) -> torch.Tensor:
    """Ids int64 `[1, length]`, the same every time."""
    # Not the config's vocabulary: that of a model with pictures is in a config of its own.
    weight = model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(weight), (1, length), generator=generator, device="cpu")
    return ids.to(weight.device)


def _caches(model: Any, entries: Sequence[PolicyEntry], budgets: Sequence[float]) -> dict[str, Peer]:
    """DynamicCache and dcache's, by name."""
    from transformers import DynamicCache

    caches = {PLAIN: Peer(lambda: DynamicCache(config=model.config))}
    for entry in entries:
        for budget, policy in entry.over(budgets):
            caches[f"{entry.label}, {budget_text(budget)}"] = Peer(_maker(model, policy))
    return caches


def _maker(model: Any, policy: lm_kv.Policy) -> Callable[[], Any]:
    return lambda: lm_kv.KVCache(model, policy)


def _row(name: str, length: int, turns: Sequence[Mapping[str, Turn]]) -> CostRow:
    own, plain = [one[name] for one in turns], [one[PLAIN] for one in turns]
    pairs = list(zip(own, plain, strict=True))
    return CostRow(
        name,
        length,
        median(one.first for one in own),
        median(one.step for one in own),
        median(one.first / other.first for one, other in pairs),
        median(one.step / other.step for one, other in pairs),
        own[-1].held,
        own[-1].peak,
        own[-1].held / plain[-1].held,
    )


def _cells(row: CostRow) -> tuple[str, ...]:
    return (
        row.name,
        str(row.tokens),
        f"{1000 * row.first:.0f} ms x{row.first_share:.2f}",
        f"{1000 * row.step:.1f} ms x{row.step_share:.2f}",
        f"{format_bytes(row.held)} {row.held_share:.1%}",
        format_bytes(row.peak),
    )


def _now(tensor: torch.Tensor) -> float:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter()
