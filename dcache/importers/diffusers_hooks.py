"""diffusers' own hooks: a `MagCacheConfig` whose ratios of magnitude compute exactly the listed steps.

MagCache skips the whole trunk while the product of its ratios stays near 1. Ratios are numbers of the file,
so where it computes is known beforehand: a ratio of 1 skips, one far from it computes.

    {"_class_name": "MagCacheConfig", "threshold": 0.5, "max_skip_steps": 28, "retention_ratio": 0.0,
     "num_inference_steps": 28, "mag_ratios": [3.0, 3.0, 1.0, ...]}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dcache.errors import DcacheError
from dcache.importers.exported import Exported, whole_row
from dcache.importers.imported import MOST_STEPS, Imported, Options
from dcache.schedule import Plan, Schedule
from dcache.util.checks import is_finite, is_whole

TAKES: tuple[str, ...] = ()
_CLASS = "MagCacheConfig"
# The error of a computed step is 2, of a skipped one 0.
_THRESHOLD, _COMPUTED, _SKIPPED = 0.5, 3.0, 1.0


def fits(content: Any) -> bool:
    """Whether the content names the config's class."""
    return isinstance(content, dict) and content.get("_class_name") == _CLASS


def convert(content: Any, options: Options) -> Imported:
    """Convert a config to the schedule of its steps.

    Args:
        content: content of the file.
        options: none are used.

    Raises:
        DcacheError: the content is not of this format, or has no ratio for each step.
    """
    if not fits(content):
        raise DcacheError(f"this is not a config of diffusers' MagCache: expected _class_name {_CLASS!r}")
    steps, ratios = content.get("num_inference_steps", 28), content.get("mag_ratios")
    if not is_whole(steps) or not 1 <= steps <= MOST_STEPS:
        raise DcacheError(f"num_inference_steps must be a whole number from 1 to {MOST_STEPS}")
    if not isinstance(ratios, list) or len(ratios) != steps or not all(map(is_finite, ratios)):
        raise DcacheError(f"mag_ratios must be a list of {steps} numbers, one for each step")
    numbers = {
        name: content.get(name, usual)
        for name, usual in (("threshold", 0.06), ("max_skip_steps", 3), ("retention_ratio", 0.2))
    }
    wrong = [name for name, value in numbers.items() if not is_finite(value)]
    if wrong:
        raise DcacheError(f"{', '.join(wrong)} must be numbers")
    if not 0 <= numbers["retention_ratio"] <= 1:
        raise DcacheError(f"retention_ratio must lie between 0 and 1, got {numbers['retention_ratio']}")
    row = _computed(ratios, steps, **numbers)
    plan = Plan({"*": {"trunk": row}}, codec="delta")
    return Imported("diffusers", Schedule(steps, {"": plan}, method="diffusers-magcache"))


def export(schedule: Schedule) -> Exported:
    """The content of a config for a schedule.

    Raises:
        DcacheError: no hook of diffusers follows the schedule: it predicts by more than the last value, does
            not store what the trunk adds, or has other sites than the trunk.
    """
    whole = whole_row(schedule, "diffusers' MagCache hook")
    problems = [
        *(f"it has {what}" for what in whole.dropped),
        *([f"it predicts by {whole.plan.predictor!r}"] if whole.order and not whole.dropped else []),
        *([f"its codec is {whole.plan.codec!r}"] if whole.plan.codec not in (None, "delta") else []),
        *(["it leaves blocks out of the run"] if (whole.first, whole.last) != (0, None) else []),
        *(["it predicts the first step"] if not whole.row[0] else []),
    ]
    if problems:
        raise DcacheError(
            f"no hook of diffusers follows this schedule: {'; '.join(problems)}. Its MagCache hook adds what "
            "the whole trunk added last: plan with the site trunk, the predictor reuse and the codec delta."
        )
    ratios = [_COMPUTED if computed else _SKIPPED for computed in whole.row]
    return Exported(
        {
            "_class_name": _CLASS,
            "threshold": _THRESHOLD,
            "max_skip_steps": schedule.steps,
            "retention_ratio": 0.0,
            "num_inference_steps": schedule.steps,
            "mag_ratios": ratios,
        }
    )


def config_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of diffusers' `MagCacheConfig` in a file's content."""
    return {name: value for name, value in content.items() if not name.startswith("_")}


def _computed(
    ratios: list[float], steps: int, threshold: float, max_skip_steps: float, retention_ratio: float
) -> tuple[bool, ...]:
    """Where the hook computes: the errors of the ratios' product add up to more than the threshold."""
    retained = int(retention_ratio * steps + 0.5)
    product, error, skipped, row = 1.0, 0.0, 0, []
    for t, ratio in enumerate(ratios):
        computes = t == 0
        if t >= retained:
            product, skipped = product * ratio, skipped + 1
            error += abs(1.0 - product)
            computes = computes or error > threshold or skipped > max_skip_steps
            if computes:
                product, error, skipped = 1.0, 0.0, 0
        row.append(computes or t < retained)
    return tuple(row)
