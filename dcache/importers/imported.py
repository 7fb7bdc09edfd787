"""`Options` and `Imported`: input and output of importers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dcache.errors import DcacheError
from dcache.schedule import Plan, Schedule
from dcache.util.checks import is_whole

# Limits far above any published run or model, so that a damaged number cannot exhaust the memory.
MOST_STEPS, MOST_BLOCKS = 4096, 4096
ORDERS = ("first-last", "last-first")


@dataclass(frozen=True)
class Options:
    """Facts that a file of another method may lack.

    Attributes:
        steps: number of evaluations of a run.
        blocks: number of blocks of the model.
        threshold: a sublayer is computed where the sigmoid of its router's logit is above it.
        order: "first-last" if the file's step 0 is the run's first evaluation, "last-first" if its last.
        interleaved: whether the numbers of the two guidance branches alternate, the conditional one first.
    """

    steps: int | None = None
    blocks: int | None = None
    threshold: float | None = None
    order: str | None = None
    interleaved: bool | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, most in (("steps", MOST_STEPS), ("blocks", MOST_BLOCKS)):
            value = getattr(self, name)
            if value is not None and not (is_whole(value) and 1 <= value <= most):
                raise DcacheError(f"{name} must be a whole number from 1 to {most}, got {value!r}")
        if self.threshold is not None and not 0 <= self.threshold < 1:
            raise DcacheError(f"threshold must lie between 0 and 1, got {self.threshold!r}")
        if self.order is not None and self.order not in ORDERS:
            raise DcacheError(f"order must be one of {', '.join(ORDERS)}, got {self.order!r}")


@dataclass(frozen=True)
class Imported:
    """A converted file: a schedule, or the content of a coefficients file.

    Attributes:
        format: name in `dcache.importers.FORMATS`.
        schedule: the schedule; None for coefficients.
        coefficients: preset -> name -> numbers; empty for a schedule.
        notes: one sentence for each thing that could not be converted, and for each decision.
    """

    format: str
    schedule: Schedule | None = None
    coefficients: Mapping[str, Mapping[str, list[float]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def imported(
    source: str, rows: Mapping[str, Iterable[bool]], *notes: str, model: str = "", **facts: Any
) -> Imported:
    """The result of an importer of schedules: sites reuse their last value, the first evaluation is computed.

    Args:
        source: name of the format.
        rows: site -> one bool per evaluation.
        notes: as in `Imported`; empty ones are left out.
        model: class of the denoiser, if the format has it.
        facts: resolution and guidance of the schedule; all others go into `measured`.
    """
    table = {site: tuple(row) for site, row in rows.items()}
    dead = sum(not row[0] for row in table.values())
    first = (
        f"{dead} of {len(table)} sites are not computed in the file's first evaluation: nothing is cached "
        "then, so they are computed here"
    )
    table = {site: (True, *row[1:]) for site, row in table.items()}
    known = {name: facts.pop(name) for name in ("resolution", "guidance") if name in facts}
    steps = len(next(iter(table.values())))
    schedule = Schedule(
        steps,
        {"": Plan({"*": table}, codec="value", model=model)},
        method=source,
        measured={"imported": {name: value for name, value in facts.items() if value not in ("", None)}},
        **known,
    )
    return Imported(source, schedule, notes=tuple(note for note in (*notes, first if dead else "") if note))
