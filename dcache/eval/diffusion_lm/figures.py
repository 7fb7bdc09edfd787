"""Figures of a policy: quality with its interval, rows, steps, seconds and bytes; and their table's cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from dcache.eval.bootstrap import interval
from dcache.eval.diffusion_lm.evaluation import NONE, Measured
from dcache.util.bytes import format_bytes

HEADS = ("policy", "quality", "95 %", "of none", "same tokens", "rows", "steps", "seconds", "held")


@dataclass(frozen=True)
class Figures:
    """Means over prompts and seeds.

    Attributes:
        name: the policy.
        order: its decode order, in words.
        quality: mean score.
        low, high: its 95 % interval, over prompts; None for fewer than two.
        ratio: quality, of the uncached loop's in the same order; None where that is 0.
        same: share of tokens that are the uncached loop's with the same seed.
        rows: share of rows computed.
        steps: forwards of a run.
        seconds: of all runs together, whole loops.
        held: most bytes held.
    """

    name: str
    order: str
    quality: float
    low: float | None
    high: float | None
    ratio: float | None
    same: float
    rows: float
    steps: float
    seconds: float
    held: int


def figures_of(measured: Sequence[Measured], seeds: int) -> list[Figures]:
    """The figures of all policies, each compared with the uncached loop of its decode order.

    Args:
        measured: of `evaluate`.
        seeds: runs of each prompt.
    """
    references = {one.order: one for one in measured if one.label == NONE}
    return [_figures(one, references[one.order], seeds) for one in measured]


def _figures(one: Measured, reference: Measured, seeds: int) -> Figures:
    scores = [score for run in one.runs for score in run["scores"]]
    # The runs of one seed have every prompt once.
    prompts = [index % (len(scores) // seeds) for index in range(len(scores))]
    low, high = interval(scores, prompts) or (None, None)
    plain = fmean(score for run in reference.runs for score in run["scores"])
    pairs = zip(_tokens(one), _tokens(reference), strict=True)
    return Figures(
        one.label,
        one.order.text,
        fmean(scores),
        low,
        high,
        fmean(scores) / plain if plain else None,
        fmean(a == b for a, b in pairs),
        sum(run["rows"] for run in one.runs) / sum(run["possible"] for run in one.runs),
        fmean(run["forwards"] for run in one.runs),
        sum(run["seconds"] for run in one.runs),
        max(run["bytes_held"] for run in one.runs),
    )


def _tokens(measured: Measured) -> list[int]:
    return [token for run in measured.runs for row in run["tokens"] for token in row]


def cells(row: Figures) -> tuple[str, ...]:
    """The row of a table."""
    plain = row.name == NONE
    between = "" if row.low is None or row.high is None else f"{row.low:.3f}-{row.high:.3f}"
    ratio = "" if plain or row.ratio is None else f"{row.ratio:.3f}"
    return (
        f"{NONE}, {row.order}" if plain else f"  {row.name}",
        f"{row.quality:.3f}",
        between,
        ratio,
        "" if plain else f"{row.same:.1%}",
        f"{row.rows:.1%}",
        f"{row.steps:.0f}",
        f"{row.seconds:.2f}",
        "" if plain else format_bytes(row.held),
    )
