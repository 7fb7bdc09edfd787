"""Scorers that somebody trained."""

from __future__ import annotations

import os

from dcache.errors import DcacheError
from dcache.lm_kv.options import Allocation
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import register
from dcache.lm_kv.scoring.observers import Nothing
from dcache.lm_kv.scoring.trained import InputScores, Module, StoredScores, TrainedScores, load


def trained_scorer(
    module: str | os.PathLike[str] | Module,
    budget: float | None = None,
    sinks: int = 4,
    window: float = 32,
    allocation: Allocation = "uniform",
    every: int = 0,
) -> Policy:
    """Keep what a trained module scores highest, such as Locret's retaining heads (arXiv 2410.01805).

    A token is scored once, when it comes, by what its layer's attention is given, or by its key and value.
    Locret's heads read queries, keys and values before rotation, which are products of that input: fold the
    projections into the first matrix.

    Args:
        module: path of a safetensors file of linear layers, or a function (layer, inputs of attention
            `[B, S, D]`) -> scores `[B, S, KV heads]`, such as a gate with an attention of its own.
        budget: as in `Policy`.
        sinks: first tokens kept beside the score.
        window: newest tokens kept beside the score.
        allocation: as in `Policy`.
        every: decoded tokens between evictions; 0 evicts after prompts alone.

    Raises:
        DcacheError: the file cannot be read or is no scorer.
    """
    scorer, observer = _parts(module)
    return Policy(
        "trained_scorer",
        scorer=scorer,
        observer=observer,
        budget=budget,
        sinks=sinks,
        window=window,
        allocation=allocation,
        every=every,
    )


def _parts(
    module: str | os.PathLike[str] | Module,
) -> tuple[TrainedScores | StoredScores, InputScores | Nothing]:
    """The scorer, and the observer that it needs."""
    if isinstance(module, str | os.PathLike):
        weights = load(module)
        if weights.reads != "hidden":
            return StoredScores(weights, weights.reads), Nothing()
        return TrainedScores(), InputScores(weights)
    if not callable(module):
        raise DcacheError(f"module must be the path of a scorer's weights or a function, got {module!r}")
    return TrainedScores(), InputScores(module)


register("trained", trained_scorer)
