"""`Plan`: the part of a schedule for one denoiser, and the terms that it shares with a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dcache.cache.codec import parse
from dcache.errors import DcacheError
from dcache.identity.clock import CLOCKS
from dcache.predictors import Predictor, make
from dcache.predictors.corrections import Corrections

Rows = Mapping[str, tuple[bool, ...]]

BRANCHES = ("separate", "together")
SIBLINGS = ("drop", "bands")


def check_terms(codec: str | None, clock: str | None, branches: str, sibling: str) -> None:
    """Check the names that a method and a plan have in common.

    Raises:
        DcacheError: one is unknown.
    """
    if codec is not None:
        parse(codec)
    if clock is not None and clock not in CLOCKS:
        raise DcacheError(f"clock must be one of {', '.join(CLOCKS)} or None, got {clock!r}")
    if branches not in BRANCHES:
        raise DcacheError(f"branches must be one of {', '.join(BRANCHES)}, got {branches!r}")
    if sibling and sibling not in SIBLINGS:
        raise DcacheError(f"sibling must be one of {', '.join(SIBLINGS)}, got {sibling!r}")


def check_clock_fits(predictor: Predictor, clock: str | None) -> None:
    """Check that fitted weights are used with the clock that lists them.

    Raises:
        DcacheError: they are not.
    """
    if predictor.tabulated and clock != "step":
        raise DcacheError(f"fitted weights are listed by evaluation: clock must be 'step', got {clock!r}")


def merge_equal_branches(rows: Mapping[str, Rows]) -> Mapping[str, Rows]:
    """The rows under the branch `*` alone where all branches have the same ones; else as they are."""
    first = next(iter(rows.values()), None)
    if first is None or any(other != first for other in rows.values()):
        return rows
    return {"*": first}


class RunLength(NamedTuple):
    """The length of one run.

    Attributes:
        evaluations: of the run.
        entries: what the sampler's table listed, which may be more or fewer; 0 for a hand-written loop.
    """

    evaluations: int
    entries: int


@dataclass(frozen=True)
class Plan:
    """The part of a schedule for one denoiser.

    Attributes:
        rows: branch -> site -> one bool per evaluation, True = compute; the branch `*` stands for all.
        codec, predictor, parameters, clock: how predictions are made, as in `dcache.method.Method`.
        model: class name of the denoiser the schedule was made on, "" if any.
        config: digest of that denoiser's config, "" if unknown.
        sibling: how the site `guidance` is predicted, as in `dcache.method.Method`.
        corrections: of what is predicted, by channel; they belong to these rows.
        runs: lengths of the runs that the denoiser makes in one call of its pipeline, whose rows follow each
            other; () for one run of as many evaluations as the sampler's table lists.
    """

    rows: Mapping[str, Rows]
    codec: str | None = None
    predictor: str = "reuse"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    clock: str | None = None
    branches: str = "separate"
    model: str = ""
    config: str = ""
    sibling: str = ""
    corrections: Corrections | None = None
    runs: tuple[RunLength, ...] = ()

    def __post_init__(self) -> None:
        """Check the terms; rows are checked by the schedule, the predictor where it is made.

        Raises:
            DcacheError: a term is unknown.
        """
        check_terms(self.codec, self.clock, self.branches, self.sibling)

    def make_predictor(self) -> Predictor:
        """The predictor, from its name and parameters.

        Raises:
            DcacheError: the name or a parameter is unknown, or it does not go with the clock.
        """
        predictor = make(self.predictor, self.parameters)
        check_clock_fits(predictor, self.clock)
        return predictor

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites, in order."""
        return tuple(next(iter(self.rows.values())))

    @property
    def computed(self) -> int:
        """Computed events of the table (each branch once; `*` counts once)."""
        return sum(sum(row) for rows in self.rows.values() for row in rows.values())
