"""Double Sparsity."""

from __future__ import annotations

import os

from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.calibration import path_of
from dcache.lm_kv.scoring.observers import Nothing, QueryWindow
from dcache.lm_kv.scoring.scorers import Recency
from dcache.lm_kv.scoring.selectors import LabelChannels
from dcache.util.checks import check_whole

# Queries from which channels are chosen.
QUERIES = 64


@preset
def double_sparsity(
    budget: float | None = None,
    channels: int = 16,
    calibration: str | os.PathLike[str] | None = None,
    sinks: int = 0,
    window: float = 16,
    every: int = 32,
) -> Policy:
    """Keep all tokens, read those that matter by a few channels (Yang et al. 2024, arXiv 2408.07092).

    A token's score is its dot product with the query over the channels that matter most to the head. It
    saves reads, not bytes.

    Args:
        budget: tokens that a KV head reads at a step.
        channels: how many are looked at; at least 1.
        calibration: path of a file of `dcache lm calibrate` that says which channels; None to choose them in
            every text.
        sinks: first tokens that are always read.
        window: newest tokens that are always read.
        every: decoded tokens between two indexings; until then new tokens are always read.
    """
    check_whole("channels", channels, 1)
    path = path_of(calibration)
    return Policy(
        scorer=Recency(),
        observer=QueryWindow(QUERIES) if path is None else Nothing(),
        calibration=path,
        parameters={"calibration": path},
        selector=LabelChannels(channels),
        budget=budget,
        sinks=sinks,
        window=window,
        every=every,
    )
