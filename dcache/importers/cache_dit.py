"""cache-dit (Vipshop): a YAML file whose `steps_computation_mask` lists the computed steps.

    cache_config:
      Fn_compute_blocks: 1
      Bn_compute_blocks: 0
      steps_computation_mask: [1, 1, 0, 1]
      steps_computation_policy: static

Its first Fn and last Bn blocks are computed in every step; the others add what they added last, or what
TaylorSeer makes of their last values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dcache.errors import DcacheError
from dcache.importers.exported import Exported, whole_row
from dcache.importers.imported import MOST_BLOCKS, MOST_STEPS, Imported, Options
from dcache.schedule import Plan, Schedule
from dcache.util.checks import is_whole

TAKES = ("blocks",)
_SECTION, _MASK, _POLICY = "cache_config", "steps_computation_mask", "steps_computation_policy"
_TAYLOR, _ORDER, _FRONT, _BACK = (
    "enable_taylorseer",
    "taylorseer_order",
    "Fn_compute_blocks",
    "Bn_compute_blocks",
)
# Blocks that the library computes first unless it is told otherwise.
_USUAL_FRONT = 8


def fits(content: Any) -> bool:
    """Whether the content has a section or a mask of cache-dit."""
    return isinstance(content, dict) and (isinstance(content.get(_SECTION), dict) or _MASK in content)


def convert(content: Any, options: Options) -> Imported:
    """Convert a static mask to a schedule.

    Args:
        content: content of the file.
        options: needs `blocks`, the number of blocks of the model.

    Raises:
        DcacheError: the mask is missing or damaged, its policy is dynamic, or the number of blocks is missing
            or too small.
    """
    if not fits(content):
        raise DcacheError(f"this is not cache-dit's format: expected {_SECTION} with {_MASK}")
    config = content.get(_SECTION, content)
    row = _mask(config)
    front, back = _whole(config, _FRONT, _USUAL_FRONT), _whole(config, _BACK, 0)
    if options.blocks is None:
        raise DcacheError("the file does not have the number of blocks of the model: give --blocks")
    last = options.blocks - 1 - back
    if front > last:
        raise DcacheError(
            f"{front} first and {back} last blocks leave none of {options.blocks} to be skipped"
        )
    order = _whole(config, _ORDER, 1) if config.get(_TAYLOR) else 0
    terms: dict[str, Any] = (
        {"predictor": "taylor", "parameters": {"order": order}, "clock": "step"} if order else {}
    )
    plan = Plan({"*": {f"run:{front}-{last}": row}}, codec="delta", **terms)
    note = "" if not order else "cache-dit predicts what its middle blocks return, dcache what they add"
    return Imported(
        "cache-dit", Schedule(len(row), {"": plan}, method="cache-dit"), notes=(note,) if note else ()
    )


def export(schedule: Schedule, blocks: int | None = None) -> Exported:
    """The content of cache-dit's file for a schedule.

    Args:
        schedule: a schedule of one run of blocks.
        blocks: blocks of the model; None if the run ends with the last one.

    Raises:
        DcacheError: cache-dit cannot follow the schedule.
    """
    whole = whole_row(schedule, "cache-dit")
    if not whole.row[0]:
        raise DcacheError("cache-dit computes the first step, and this schedule predicts it")
    front, order, notes = max(1, whole.first), whole.order, [*(f"dropped: {what}" for what in whole.dropped)]
    back = 0 if blocks is None or whole.last is None else blocks - 1 - whole.last
    if back < 0:
        raise DcacheError(f"the run ends with block {whole.last}, and the model has {blocks} blocks")
    if whole.first == 0:
        notes.append("dropped: block 0 is predicted here, and computed in every step by cache-dit")
    if order:
        notes.append(
            f"cache-dit's own TaylorSeer of order {order} predicts, instead of {whole.plan.predictor}"
        )
    if whole.plan.codec not in (None, "delta"):
        notes.append(f"dropped: codec {whole.plan.codec}; cache-dit stores what the blocks add")
    config: dict[str, Any] = {
        _FRONT: front,
        _BACK: back,
        "max_warmup_steps": (*whole.row, False).index(False),
        "max_cached_steps": -1,
        "max_continuous_cached_steps": -1,
        "num_inference_steps": schedule.steps,
        _MASK: [int(computed) for computed in whole.row],
        _POLICY: "static",
    }
    config |= {_TAYLOR: True, _ORDER: order} if order else {}
    return Exported({_SECTION: config}, tuple(notes))


def yaml_text(content: Mapping[str, Any]) -> str:
    """The file's text: sections of plain values and lists of numbers."""
    lines = []
    for section, values in content.items():
        lines.append(f"{section}:")
        lines += [f"  {name}: {'true' if value is True else value}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def _mask(config: Mapping[str, Any]) -> tuple[bool, ...]:
    mask = config.get(_MASK)
    if (
        not isinstance(mask, list)
        or not 1 <= len(mask) <= MOST_STEPS
        or not all(is_whole(computed) and computed in (0, 1) for computed in mask)
    ):
        raise DcacheError(
            f"{_MASK} must be a list of 1 and 0, got {str(mask)[:60]}. Without one cache-dit decides by a "
            "threshold: use the preset dbcache."
        )
    if config.get(_POLICY, "dynamic") != "static":
        raise DcacheError(
            f"{_POLICY} is not 'static', so a threshold decides where the mask has 0: use the preset dbcache"
        )
    if not mask[0]:
        raise DcacheError(f"{_MASK} does not compute the first step, when nothing is cached yet")
    return tuple(map(bool, mask))


def _whole(config: Mapping[str, Any], name: str, usual: int) -> int:
    value = config.get(name, usual)
    if not is_whole(value) or not 0 <= value <= MOST_BLOCKS:
        raise DcacheError(f"{name} must be a whole number from 0 to {MOST_BLOCKS}, got {str(value)[:60]}")
    return int(value)
