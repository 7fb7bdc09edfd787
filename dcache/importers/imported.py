"""What an importer is told, and what it returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dcache.errors import DcacheError
from dcache.schedule import Plan, Schedule
from dcache.util.checks import is_whole

# More of these than any published run or model has: a damaged number must not fill the memory.
MOST_STEPS, MOST_BLOCKS = 4096, 4096
ORDERS = ("first-last", "last-first")


@dataclass(frozen=True)
class Options:
    """What a file of another method may leave open.

    Attributes:
        steps: evaluations of a run.
        blocks: blocks of the model.
        threshold: routers compute where the sigmoid of their logit is above it.
        order: whether the file's step 0 is the run's first evaluation ("first-last") or its last
            ("last-first").
        interleaved: whether numbers of the two guidance branches alternate, the one with the prompt first.
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
    """A translated file: a schedule, or the content of a coefficients file.

    Attributes:
        format: which of `dcache.importers.FORMATS`.
        schedule: None where the format holds no schedule.
        coefficients: preset -> name -> numbers, for the presets that read such files.
        notes: what the format says that ours cannot, and what was decided; one sentence each.
    """

    format: str
    schedule: Schedule | None = None
    coefficients: Mapping[str, Mapping[str, list[float]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def imported(
    source: str, rows: Mapping[str, Iterable[bool]], *notes: str, model: str = "", **told: Any
) -> Imported:
    """A schedule of sublayers that reuse their last value, the first evaluation computed.

    Args:
        source: the format.
        rows: site -> one bool per evaluation.
        notes: as in `Imported`; empty ones are left out.
        model: class of the denoiser, where the format tells.
        told: resolution and guidance of the schedule; anything else goes into `measured`.
    """
    table = {site: tuple(row) for site, row in rows.items()}
    dead = sum(not row[0] for row in table.values())
    first = (
        f"{dead} of {len(table)} sites are not computed in the first evaluation by the file: nothing is "
        "remembered yet, so they are"
    )
    table = {site: (True, *row[1:]) for site, row in table.items()}
    known = {name: told.pop(name) for name in ("resolution", "guidance") if name in told}
    steps = len(next(iter(table.values())))
    made = Schedule(
        steps,
        {"": Plan({"*": table}, codec="value", model=model)},
        method=source,
        measured={"imported": {name: value for name, value in told.items() if value not in ("", None)}},
        **known,
    )
    return Imported(source, made, notes=tuple(note for note in (*notes, first if dead else "") if note))
