"""The calibrated schedules that ship with the demo's model, as methods of a comparison."""

from __future__ import annotations

from pathlib import Path

from dcache.eval.specs import MethodEntry
from dcache.schedule import Schedule


def shipped_schedules(folder: Path | None, steps: int | None, guidance: float | None) -> list[MethodEntry]:
    """The shipped schedules for this number of steps and this guidance, the slowest first.

    Args:
        folder: folder with files such as `NAME-3x.schedule.json`; None for a model without.
        steps: sampling steps of the calls.
        guidance: guidance scale of the calls.
    """
    if folder is None:
        return []
    entries = []
    for path in sorted(folder.glob("*.schedule.json"), key=lambda path: (path.stem.rpartition("-")[2], path)):
        schedule = Schedule.load(path)
        if (schedule.steps, schedule.guidance) == (steps, guidance):
            speed = path.name.removesuffix(".schedule.json").rpartition("-")[2]
            entries.append(
                MethodEntry(
                    f"calibrated {speed}",
                    f"calibrated {speed}",
                    f", {str(path)!r})",
                    f"{path.name}, shipped with this model; for yours: dcache calibrate",
                    method=schedule,
                )
            )
    return entries
