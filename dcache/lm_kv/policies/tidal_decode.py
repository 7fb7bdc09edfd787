"""TidalDecode."""

from __future__ import annotations

from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.scorers import Recency
from dcache.lm_kv.scoring.selectors import OtherLayers


@preset
def tidal_decode(
    budget: float | None = None,
    start: float = 0.07,
    again: float = 0.42,
    sinks: int = 0,
    window: float = 16,
    every: int = 32,
) -> Policy:
    """Few layers choose tokens, the others read the same ones (Yang et al. 2024, arXiv 2410.05076).

    The layers `start` and `again` attend to everything; those behind them read the tokens that got most of
    that attention, the mean over a group's heads. Layers before `start` read everything. It saves reads, not
    bytes. 0.07 and 0.42 are layers 2 and 13 of 32, as published for Llama-3-8B.

    Args:
        budget: tokens that a KV head reads at a step.
        start: the first layer that chooses: a share of the layers with full attention, or a place among them.
        again: the layer that chooses anew, likewise; the same as `start` for none.
        sinks: first tokens that are always read.
        window: newest tokens that are always read.
        every: decoded tokens between two packings; until then new tokens are always read.
    """
    return Policy(
        scorer=Recency(),
        selector=OtherLayers(),
        choosing=(start, again),
        budget=budget,
        sinks=sinks,
        window=window,
        every=every,
    )
