"""Export of a schedule to ECAD's JSON, the inverse of `dcache.importers.ecad`."""

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
    """The content of ECAD's file for a schedule.

    Sublayers without a site, and all sublayers of the first step, are computed. A `fused` site becomes all
    three components of a single block.

    Args:
        schedule: a schedule of one denoiser by reuse, with sites of attention, cross-attention, MLP and
            `fused`.
        layout: "pixart" or "flux"; None infers it from the model's class or the sites.
        blocks: number of blocks; by default those with sites.
        single_blocks: number of FLUX's single blocks; by default those with sites.

    Raises:
        DcacheError: ECAD's format cannot represent the schedule, or the layout cannot be inferred.
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
        raise DcacheError(f"ECAD's files are for one denoiser, this schedule has {len(schedule.components)}")
    (plan,) = schedule.components.values()
    if plan.predictor != "reuse":
        raise DcacheError(
            f"ECAD's files can only reuse the last value, but this schedule predicts by {plan.predictor!r}: "
            "the pictures would differ"
        )
    if plan.codec not in (None, "value"):
        raise DcacheError(f"ECAD's files cache values, but this schedule caches {plan.codec!r}")
    if plan.corrections is not None or schedule.sigmas:
        raise DcacheError("ECAD's files cannot hold the corrections or noise levels of this schedule")
    others = [site for site in plan.sites if not site.startswith(("attn", "cross_attn", "mlp", "fused"))]
    if others:
        raise DcacheError(
            f"ECAD's files hold attention and MLPs of blocks, but this schedule has {', '.join(others[:5])}"
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
        f"cannot infer ECAD's layout from the schedule (model {plan.model or 'unknown'}): give --layout "
        f"{' or '.join(LAYOUTS)}"
    )


def _counts(rows: Rows, layout: Layout, blocks: int | None, single_blocks: int | None) -> tuple[int, int]:
    """The number of blocks, and of blocks and single blocks together.

    Raises:
        DcacheError: a site belongs to none of them.
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
                f"site {site!r} is in none of {count} blocks of {layout.model} with {', '.join(kinds)}"
                + (f" and {single} single blocks after them" if layout.single else "")
            )
    return count, count + single


def _count(name: str, given: int | None, depths: list[int]) -> int:
    if given is None and name == "blocks" and not depths:
        raise DcacheError(
            "the schedule has sites of single blocks only: give --blocks, the number of blocks before them"
        )
    # Too small a depth is refused later, with the name of its site.
    count = max([*depths, -1]) + 1 if given is None else given
    least = 1 if name == "blocks" else 0
    if not least <= count <= MOST_BLOCKS:
        raise DcacheError(f"{name} must be a whole number from {least} to {MOST_BLOCKS}, got {count}")
    return count


def _config(schedule: Schedule) -> dict[str, Any]:
    """Size and guidance of the pictures, if the schedule has them."""
    config: dict[str, Any] = {}
    if len(schedule.resolution) == 2:
        config |= dict(zip(("height", "width"), schedule.resolution, strict=True))
    if schedule.guidance is not None:
        config["guidance_scale"] = schedule.guidance
    return config


def _name(schedule: Schedule) -> str:
    origin: Any = schedule.measured.get("imported")
    name = origin.get("name") if isinstance(origin, Mapping) else None
    return name if isinstance(name, str) and name else schedule.method or "dcache"
