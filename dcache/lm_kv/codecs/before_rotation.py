"""Keys as they were before their rotation, where they have few directions."""

from __future__ import annotations

import torch

from dcache.lm_kv.codecs.codec import LayerFacts
from dcache.lm_kv.codecs.low_rank import LowRank

# All tokens of a run, and of no other, share directions.
WHOLE_RUN = 2**31


def places_of(lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 `[N]` each: every token's run, and its place in it, for runs of these lengths `[runs]`."""
    run = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    starts = lengths.cumsum(0) - lengths
    return run, torch.arange(len(run), device=lengths.device) - starts[run]


def turned_by(facts: LayerFacts, states: torch.Tensor, positions: torch.Tensor, mode: str) -> torch.Tensor:
    """States `[N, d]` in float32 or better, turned by positions `[N]`; as they are without a rotation."""
    precise = states.to(torch.promote_types(states.dtype, torch.float32))
    if facts.turn is None or not len(states):
        return precise
    return facts.turn(precise[None, None], positions[None], mode)[0, 0]


def on_basis(
    turned: torch.Tensor, run: torch.Tensor, counts: torch.Tensor, basis: torch.Tensor, rank: int
) -> LowRank:
    """Keys `[N, d]` projected on the strongest directions of their heads.

    Args:
        turned: before rotation.
        run: int64 `[N]`, each key's run; runs are rows' heads, in order.
        counts: int64 `[runs]`, keys of each.
        basis: `[h, d, d]`, as `LayerFacts` has it.
        rank: how many directions.
    """
    right = basis[:, :rank].contiguous()
    heads = run % len(right)
    left = torch.einsum("nd,nrd->nr", turned, right.to(turned.dtype)[heads])
    return LowRank(left.half(), right.half(), counts, WHOLE_RUN, heads.int(), fixed=True)
