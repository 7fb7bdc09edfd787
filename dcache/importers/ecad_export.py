"""A schedule as ECAD's JSON, the inverse of `dcache.importers.ecad`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dcache.errors import DcacheError
from dcache.importers.ecad import LAYOUTS, SINGLE, Layout
from dcache.importers.imported import MOST_BLOCKS
from dcache.schedule import Plan, Rows, Schedule


def export(
    schedule: Schedule,
    layout: str | None = None,
    blocks: int | None = None,
    single_blocks: int | None = None,
) -> dict[str, Any]:
    """The content of such a file.

    Sublayers that the schedule has no site for are always computed, and so are they there. The first step
    computes everything. A `fused` site is all three components of a single block.

    Args:
        schedule: of one denoiser, by reuse, on attention, cross-attention, MLP and fused sites.
        layout: "pixart" or "flux"; None where the schedule tells by its model's class or its sites.
        blocks: of the model; by default as many as have sites.
        single_blocks: of FLUX, those after them; by default as many as have sites.

    Raises:
        DcacheError: their format cannot hold the schedule.
    """
    plan = _plan(schedule)
    chosen = _layout(plan, layout)
    rows = _alike(plan)
    count, total = _counts(rows, chosen, blocks, single_blocks)
    always = (True,) * schedule.steps
    table = {
        f"{t:03}": {
            str(i): {c: t == 0 or rows.get(f"{kind}:{i}", always)[t] for c, kind in chosen.kinds.items()}
            for i in range(count)
        }
        | {
            f"single_{i - count}": dict.fromkeys(SINGLE, t == 0 or rows.get(f"fused:{i}", always)[t])
            for i in range(count, total)
        }
        for t in range(schedule.steps)
    }
    about = {"num_blocks": count, "num_inference_steps": schedule.steps, "name": _name(schedule)}
    about |= {"num_single_blocks": total - count} if chosen.single else {}
    return {
        "cache_schedule": {**about, "attributes": {}, "schedule": table},
        "config": _config(schedule),
        "metrics": {},
    }


def _plan(schedule: Schedule) -> Plan:
    if len(schedule.components) != 1:
        raise DcacheError(f"ECAD's files are of one denoiser, this schedule is of {len(schedule.components)}")
    (plan,) = schedule.components.values()
    if plan.predictor != "reuse":
        raise DcacheError(
            f"ECAD's files reuse the last value, and this schedule predicts by {plan.predictor!r}: another "
            "method's pictures would come of it"
        )
    if plan.codec not in (None, "value"):
        raise DcacheError(f"ECAD's files remember values, and this schedule remembers {plan.codec!r}")
    if plan.corrections is not None or schedule.sigmas:
        raise DcacheError("ECAD's files have neither corrections nor noise levels, and this schedule has")
    others = [site for site in plan.sites if not site.startswith(("attn", "cross_attn", "mlp", "fused"))]
    if others:
        raise DcacheError(
            f"ECAD's files hold attention and MLPs of blocks, and this schedule has {', '.join(others[:5])}"
        )
    return plan


def _alike(plan: Plan) -> Rows:
    rows = list(plan.rows.values())
    if any(other != rows[0] for other in rows):
        raise DcacheError(
            f"ECAD's files have one table for all guidance branches, and {', '.join(plan.rows)} differ here"
        )
    return rows[0]


def _layout(plan: Plan, name: str | None) -> Layout:
    if name is not None:
        if name not in LAYOUTS:
            raise DcacheError(f"layout must be one of {', '.join(LAYOUTS)}, got {name!r}")
        return LAYOUTS[name]
    kinds = {site.partition(":")[0] for site in plan.sites}
    for layout in LAYOUTS.values():
        if plan.model == layout.model:
            return layout
    if kinds & {"fused", "mlp.context"}:
        return LAYOUTS["flux"]
    if "cross_attn" in kinds:
        return LAYOUTS["pixart"]
    raise DcacheError(
        f"the schedule does not tell which of ECAD's layouts it is for (model {plan.model or 'unknown'}): "
        f"say --layout {' or '.join(LAYOUTS)}"
    )


def _counts(rows: Rows, layout: Layout, blocks: int | None, single_blocks: int | None) -> tuple[int, int]:
    """The number of blocks, and that with the single blocks after them.

    Raises:
        DcacheError: a site is of none of them.
    """
    depths = {site: (kind, int(depth)) for site in rows for kind, _, depth in [site.partition(":")]}
    double = [depth for kind, depth in depths.values() if kind != "fused"]
    fused = [depth for kind, depth in depths.values() if kind == "fused"]
    count = _count("blocks", blocks, double)
    single = _count("single_blocks", single_blocks, [d - count for d in fused]) if layout.single else 0
    kinds = list(layout.kinds.values())
    for site, (kind, depth) in depths.items():
        fits = kind in kinds and depth < count if kind != "fused" else count <= depth < count + single
        if not fits:
            raise DcacheError(
                f"site {site!r} is none of {count} blocks of {layout.model} with {', '.join(kinds)}"
                + (f" and {single} single blocks after them" if layout.single else "")
            )
    return count, count + single


def _count(name: str, given: int | None, depths: list[int]) -> int:
    if given is None and name == "blocks" and not depths:
        raise DcacheError("the schedule has sites of single blocks alone: say --blocks, how many come before")
    # Sites before the single blocks are refused by name, later.
    count = max([*depths, -1]) + 1 if given is None else given
    least = 1 if name == "blocks" else 0
    if not least <= count <= MOST_BLOCKS:
        raise DcacheError(f"{name} must be a whole number from {least} to {MOST_BLOCKS}, got {count}")
    return count


def _config(schedule: Schedule) -> dict[str, Any]:
    """Size and guidance of the pictures, as far as the schedule tells."""
    config: dict[str, Any] = {}
    if len(schedule.resolution) == 2:
        config |= dict(zip(("height", "width"), schedule.resolution, strict=True))
    if schedule.guidance is not None:
        config["guidance_scale"] = schedule.guidance
    return config


def _name(schedule: Schedule) -> str:
    told: Any = schedule.measured.get("imported")
    name = told.get("name") if isinstance(told, Mapping) else None
    return name if isinstance(name, str) and name else schedule.method or "dcache"
