"""CompressKV."""

from __future__ import annotations

import os

from dcache.lm_kv.options import Allocation
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.calibration import load
from dcache.lm_kv.scoring.heads import Pattern, VotesOfFarHeads
from dcache.lm_kv.scoring.observers import QueryWindow
from dcache.lm_kv.scoring.preference import GivenLayers
from dcache.util.checks import check_odd, check_whole


@preset
def compresskv(
    budget: float | None = None,
    pattern: Pattern | str | os.PathLike[str] | None = None,
    heads: int = 1,
    window: int = 8,
    pool: int = 5,
    sinks: int = 0,
    allocation: Allocation | None = None,
    every: int = 0,
) -> Policy:
    """Keep what the heads that look far back attend to (Lin et al. 2025, arXiv 2508.02401).

    All heads of a layer keep the same tokens. With a calibration, layers get tokens in proportion to how far
    predictions move when they are compressed.

    Args:
        budget: as in `Policy`.
        pattern: as in `duo_attention`: numbers, the path of a calibration, or None for an estimate.
        heads: KV heads of a layer that vote; at least 1.
        window: queries that vote, and newest tokens kept; 8 as published.
        pool: width of the moving average, odd; 1 where facts are single tokens.
        sinks: first tokens kept beside the score.
        allocation: None for "preference" with a calibration, else "uniform".
        every: decoded tokens between evictions; 0 evicts after prompts alone, as published.
    """
    check_whole("heads", heads, 1)
    check_whole("window", window, 1)
    check_odd("pool", pool)
    path, layers = None, None
    if isinstance(pattern, str | os.PathLike):
        path, measured = os.fspath(pattern), load(pattern)
        pattern, layers = measured.pattern, GivenLayers(measured.sensitivity)
    return Policy(
        scorer=VotesOfFarHeads(pattern, heads, pool),
        observer=QueryWindow(window),
        preference=layers,
        calibration=path,
        parameters={"pattern": path or pattern},
        budget=budget,
        sinks=sinks,
        window=window,
        allocation=allocation or ("uniform" if layers is None else "preference"),
        every=every,
    )
