"""Keyformer."""

from __future__ import annotations

from dcache.lm_kv.options import Allocation
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.noisy import NoisyReceived, NoisySums
from dcache.util.checks import check_number, check_whole


@preset
def keyformer(
    budget: float | None = None,
    window: float = 0.3,
    history: int = 128,
    growth: float = 0.01,
    seed: int = 0,
    sinks: int = 0,
    allocation: Allocation = "uniform",
    every: int = 32,
) -> Policy:
    """Keep what receives attention though its logits are noisy (Adnan et al. 2024, arXiv 2403.09054).

    Score: the sum over queries of softmax((x + g) / tau), with Gumbel noise g and a temperature that grows
    while tokens are decoded.

    Args:
        budget: as in `Policy`; 0.6 as published.
        window: newest tokens kept; 0.3 of the budget as published.
        history: last queries that are added at an eviction; at least 1.
        growth: of the temperature at each decoded token; at least 0.
        seed: another one draws other noise.
        sinks: first tokens kept beside the score.
        allocation: as in `Policy`.
        every: decoded tokens between evictions; 1 as published.
    """
    check_whole("history", history, 1)
    check_whole("seed", seed, 0)
    check_number("growth", growth, 0)
    return Policy(
        scorer=NoisyReceived(),
        observer=NoisySums(history, growth, seed),
        budget=budget,
        sinks=sinks,
        window=window,
        allocation=allocation,
        every=every,
    )
