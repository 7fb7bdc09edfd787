"""CSKV and MatryoshkaKV without training."""

from __future__ import annotations

import os

from dcache.lm_kv.codecs.projected import ProjectedCodec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.calibration import path_of
from dcache.lm_kv.scoring.scorers import Recency


@preset
def cskv(
    budget: float = 1.0,
    rank: int = 16,
    value_rank: int = 32,
    group: int = 128,
    residual: int = 32,
    calibration: str | os.PathLike[str] | None = None,
) -> Policy:
    """Keys before rotation and values by few directions (after Wang et al. 2024, arXiv 2409.10593).

    Nothing is evicted; as `codec=cskv(...)` it stores what any other policy keeps. Positions must be
    rotations.

    Args:
        budget: as in `Policy`; below 1.0 the newest tokens are kept.
        rank: directions of a head's keys; at least 1.
        value_rank: directions of a head's values; at least 1.
        group: tokens of a row that are encoded together and share directions.
        residual: newest tokens of a row that stay as they came, at least.
        calibration: path of a file of `dcache lm calibrate` that has the directions of keys, as MatryoshkaKV
            begins with; None to find them in every group.
    """
    path = path_of(calibration)
    return Policy(
        scorer=Recency(),
        calibration=path,
        parameters={"calibration": path},
        budget=budget,
        sinks=0,
        window=0,
        codec=ProjectedCodec(rank, value_rank, group, residual),
    )
