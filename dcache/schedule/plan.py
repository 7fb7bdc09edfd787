"""`Plan`: the part of a schedule for one denoiser, and checks of the terms that it shares with a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dcache.cache.codec import parse
from dcache.errors import DcacheError
from dcache.identity.clock import CLOCKS
from dcache.predictors import Predictor, make
from dcache.predictors.corrections import Corrections
from dcache.util.checks import plain

Rows = Mapping[str, tuple[bool, ...]]

BRANCHES = ("separate", "together")
UNCOND_FROM = ("drop", "bands")


def check_terms(codec: str | None, clock: str | None, branches: str, uncond_from: str) -> None:
    """Check the terms that a method and a plan have in common.

    Raises:
        DcacheError: a term is unknown.
    """
    if codec is not None:
        parse(codec)
    if clock is not None and clock not in CLOCKS:
        raise DcacheError(f"clock must be one of {', '.join(CLOCKS)} or None, got {clock!r}")
    if branches not in BRANCHES:
        raise DcacheError(f"branches must be one of {', '.join(BRANCHES)}, got {branches!r}")
    if uncond_from and uncond_from not in UNCOND_FROM:
        raise DcacheError(f"uncond_from must be one of {', '.join(UNCOND_FROM)}, got {uncond_from!r}")


def check_clock_fits(predictor: Predictor, clock: str | None) -> None:
    """Check that a predictor whose weights are listed by evaluation has the clock `step`.

    Raises:
        DcacheError: it has another clock.
    """
    if predictor.tabulated and clock != "step":
        raise DcacheError(f"fitted weights are listed by evaluation: clock must be 'step', got {clock!r}")


def merge_equal_branches(rows: Mapping[str, Rows]) -> Mapping[str, Rows]:
    """The rows under the single branch `*` if all branches have the same rows; else unchanged."""
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
        codec: as in `dcache.method.Method`.
        predictor: the predictor's registered name.
        parameters: the predictor's parameters, as JSON values.
        clock: as in `dcache.method.Method`.
        branches: the same.
        model: class name of the denoiser on which the schedule was made, "" for any.
        config: digest of that denoiser's config, "" if unknown.
        uncond_from: as in `dcache.method.Method`; the key `sibling` of the file.
        corrections: scale and shift of the predictions, by channel; they belong to these rows.
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
    uncond_from: str = ""
    corrections: Corrections | None = None
    runs: tuple[RunLength, ...] = ()

    def __post_init__(self) -> None:
        """Check the terms. `Schedule` checks the rows, `make_predictor` the predictor.

        Raises:
            DcacheError: a term is unknown.
        """
        check_terms(self.codec, self.clock, self.branches, self.uncond_from)
        plain_parameters = {name: plain(value) for name, value in self.parameters.items()}
        object.__setattr__(self, "parameters", plain_parameters)

    def make_predictor(self) -> Predictor:
        """Build the predictor from its name and parameters.

        Raises:
            DcacheError: the name or a parameter is unknown, or the predictor needs another clock.
        """
        predictor = make(self.predictor, self.parameters)
        check_clock_fits(predictor, self.clock)
        return predictor

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, in the order of the rows."""
        return tuple(next(iter(self.rows.values())))

    @property
    def computed(self) -> int:
        """Number of computed events in the rows; the branch `*` counts once."""
        return sum(sum(row) for rows in self.rows.values() for row in rows.values())
