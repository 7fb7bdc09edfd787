"""ECAD (Aggarwal et al. 2025): evolved tables of step x block x component, in JSON.

    {"cache_schedule": {"name", "num_blocks", "num_single_blocks", "num_inference_steps", "attributes",
                        "schedule": {"000": {"0": {"attn1": true, ...}, "single_0": {...}, ...}, ...}},
     "config": {"height", "width", "guidance_scale"}, "metrics": {...}}

True is computed. FLUX's single blocks have three components in the file; the last one projects the other two.
In dcache such a block has one site, `fused`, which caches the output of the projection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dcache.errors import DcacheError
from dcache.importers.imported import MOST_BLOCKS, MOST_STEPS, Imported, Options, imported
from dcache.util.checks import is_whole

TAKES: tuple[str, ...] = ()
SINGLE = ("single_attn", "single_proj_mlp", "single_proj_out")
_KNOWN = ("name", "num_blocks", "num_single_blocks", "num_inference_steps", "attributes", "schedule")


class Layout(NamedTuple):
    """Names of one model: the denoiser's class, component -> kind of site; `single`: it has single blocks."""

    model: str
    kinds: Mapping[str, str]
    single: bool


LAYOUTS = {
    "flux": Layout(
        "FluxTransformer2DModel",
        {"full_attn": "attn", "full_ff": "mlp", "full_ff_context": "mlp.context"},
        True,
    ),
    "pixart": Layout(
        "PixArtTransformer2DModel", {"attn1": "attn", "attn2": "cross_attn", "ff": "mlp"}, False
    ),
}

Bits = Mapping[str, Mapping[str, bool]]


def fits(content: Any) -> bool:
    """Whether the content has a `cache_schedule`."""
    return isinstance(content, dict) and "cache_schedule" in content


def convert(content: Any, options: Options) -> Imported:
    """Convert ECAD's table to a schedule; `options` are not used.

    Raises:
        DcacheError: a step, block or component is missing, unknown, or no bool.
    """
    table = content.get("cache_schedule") if isinstance(content, dict) else None
    if not isinstance(table, dict):
        raise DcacheError('this is not ECAD\'s format: expected an object under "cache_schedule"')
    steps = _count(table, "num_inference_steps", MOST_STEPS)
    blocks = _count(table, "num_blocks", MOST_BLOCKS)
    singles = _count(table, "num_single_blocks", MOST_BLOCKS, 0) if "num_single_blocks" in table else 0
    layout = _layout(table)
    if bool(singles) and not layout.single:
        raise DcacheError(f'"num_single_blocks" is {singles}, but {layout.model} has no single blocks')
    expected = {str(i): tuple(layout.kinds) for i in range(blocks)}
    expected |= {f"single_{i}": SINGLE for i in range(singles)}
    run = [_step(table["schedule"], t, steps, expected) for t in range(steps)]
    rows: dict[str, list[bool]] = {}
    for i in range(blocks):
        for component, kind in layout.kinds.items():
            rows[f"{kind}:{i}"] = [step[str(i)][component] for step in run]
    notes = [_ignored(table)]
    if singles:
        fused = [_fused([step[f"single_{i}"] for step in run]) for i in range(singles)]
        rows |= {f"fused:{blocks + i}": row for i, (row, _) in enumerate(fused)}
        notes += _about_single(sum(differs for _, differs in fused))
    return imported(
        "ecad", rows, *notes, model=layout.model, name=_text(table.get("name")), **_about(content)
    )


def _fused(bits: list[Mapping[str, bool]]) -> tuple[list[bool], int]:
    """The row of a single block, and the number of steps that differ from the file.

    The site is computed where the projection is, unless its inputs are unchanged since the last projection.
    """
    row, differs, stale = [], 0, True
    for t, step in enumerate(bits):
        # `stale`: attention or MLP was computed since the last projection. Step 0 always computes everything.
        stale = stale or step[SINGLE[0]] or step[SINGLE[1]]
        computes = stale and (t == 0 or step[SINGLE[2]])
        row.append(computes)
        differs += t > 0 and len({computes, *step.values()}) > 1
        stale = stale and not computes
    return row, differs


def _about_single(differs: int) -> list[str]:
    if not differs:
        return []
    return [
        f"{differs} times the file computes only a part of a single block. Attention, MLP and projection of "
        "such a block are one site in dcache: the whole site is computed where the file projects new inputs, "
        "and nowhere else"
    ]


def _layout(table: Mapping[str, Any]) -> Layout:
    schedule = table.get("schedule")
    first = next(iter(schedule.values()), None) if isinstance(schedule, dict) else None
    block = first.get("0") if isinstance(first, dict) else None
    if not isinstance(block, dict):
        raise DcacheError('expected "schedule" to hold steps, and each step blocks that begin with "0"')
    for layout in LAYOUTS.values():
        if set(block) == set(layout.kinds):
            return layout
    known = " or ".join(", ".join(layout.kinds) for layout in LAYOUTS.values())
    raise DcacheError(f"block 0 has the components {', '.join(map(str, block))}: expected {known}")


def _step(schedule: Any, t: int, steps: int, expected: Mapping[str, tuple[str, ...]]) -> Bits:
    name = f"{t:03}"
    if len(schedule) != steps or name not in schedule:
        raise DcacheError(
            f"the schedule has {len(schedule)} steps{'' if name in schedule else f' and no {name!r}'}: "
            f'expected {steps}, "000" to "{steps - 1:03}"'
        )
    blocks = schedule[name]
    if not isinstance(blocks, dict) or set(blocks) != set(expected):
        given = len(blocks) if isinstance(blocks, dict) else type(blocks).__name__
        raise DcacheError(f"step {name!r} must have the {len(expected)} blocks of this model, got {given}")
    for block, components in expected.items():
        bits = blocks[block]
        if not isinstance(bits, dict) or set(bits) != set(components):
            raise DcacheError(
                f"block {block!r} of step {name!r} must have {', '.join(components)}, got {str(bits)[:80]}"
            )
        if not all(isinstance(bit, bool) for bit in bits.values()):
            raise DcacheError(
                f"block {block!r} of step {name!r} must hold true or false, got {str(bits)[:80]}"
            )
    return blocks


def _count(table: Mapping[str, Any], name: str, most: int, least: int = 1) -> int:
    value = table.get(name)
    if not is_whole(value) or not least <= value <= most:
        raise DcacheError(f'"{name}" must be a whole number from {least} to {most}, got {str(value)[:40]}')
    return value


def _ignored(table: Mapping[str, Any]) -> str:
    extra = [str(name) for name in table if name not in _KNOWN]
    return f"not read: {', '.join(extra)}" if extra else ""


def _about(content: Mapping[str, Any]) -> dict[str, Any]:
    """Resolution, guidance and attributes of the file; only numbers and texts."""
    config, metrics = (content.get(part) or {} for part in ("config", "metrics"))
    if not isinstance(config, dict) or not isinstance(metrics, dict):
        raise DcacheError('"config" and "metrics" must be objects')
    about: dict[str, Any] = {}
    size = tuple(config.get(side) for side in ("height", "width"))
    if any(side is not None for side in size):
        if not all(is_whole(side) and side > 0 for side in size):
            raise DcacheError(f'"height" and "width" of "config" must be whole numbers, got {str(size)[:60]}')
        about["resolution"] = size
    guidance = config.get("guidance_scale")
    if guidance is not None and not _finite(guidance):
        raise DcacheError(f'"guidance_scale" of "config" must be a number, got {str(guidance)[:40]}')
    about["guidance"] = guidance
    others = {k: v for k, v in config.items() if k not in ("height", "width", "guidance_scale")}
    attributes = content["cache_schedule"].get("attributes") or {}
    plain = {**others, **(attributes if isinstance(attributes, dict) else {})}
    about["attributes"] = {k: v for k, v in plain.items() if _text(v) or _finite(v)} or None
    macs = metrics.get("total_macs")
    about["macs"] = macs if _finite(macs) else None
    return about


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _finite(value: Any) -> bool:
    # An int may be too large for a float.
    return isinstance(value, int | float) and abs(value) < 1e300
