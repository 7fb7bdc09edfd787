"""ShadowKV."""

from __future__ import annotations

import os

from dcache.lm_kv.codecs.shadow import ShadowCodec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.calibration import path_of
from dcache.lm_kv.scoring.scorers import Recency
from dcache.lm_kv.scoring.selectors import Landmarks


@preset
def shadowkv(
    budget: float | None = None,
    rank: int = 32,
    page: int = 8,
    exact: int = 48,
    calibration: str | os.PathLike[str] | None = None,
    sinks: int = 0,
    window: float = 32,
    every: int = 32,
) -> Policy:
    """Keys by low rank, values on the host, pages read by their mean (Sun et al. 2024, arXiv 2410.21465).

    A page's score is the query's dot product with its mean key. Keys that are read are rebuilt and turned to
    their positions, their values fetched.

    Args:
        budget: tokens that a KV head reads at a step.
        rank: directions of a head's keys before rotation; at least 1.
        page: tokens of a page; at least 1.
        exact: pages of a head, those least like their mean and at most a 16th, whose keys stay as they came
            and that are always read.
        calibration: path of a file of `dcache lm calibrate` that has the directions; None to find them in
            every text.
        sinks: first tokens that are always read.
        window: newest tokens that are always read.
        every: decoded tokens between two indexings; until then new tokens are always read.
    """
    path = path_of(calibration)
    return Policy(
        scorer=Recency(),
        calibration=path,
        parameters={"calibration": path},
        selector=Landmarks(page, exact),
        codec=ShadowCodec(rank, page, exact),
        budget=budget,
        sinks=sinks,
        window=window,
        every=every,
    )
