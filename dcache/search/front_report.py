"""What a search leaves in its folder: the front as schedule files, a table, a plot, a page."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from operator import ge, le
from pathlib import Path
from typing import Any

from dcache.errors import DcacheError
from dcache.eval.machine import machine, versions
from dcache.schedule import Schedule
from dcache.search.candidate import Candidate
from dcache.search.front import WORST, Objectives, hypervolume, nondominated
from dcache.search.loop import Search
from dcache.search.search import SearchConfig
from dcache.util import files

FORMAT = "dcache.front"
_OURS = re.compile(r"schedules/[\w.-]+\.schedule\.json")


@dataclass(frozen=True)
class FrontEntry:
    """One schedule of the front.

    Attributes:
        name: of its file, without the ending.
        schedule: with its figures in `measured`.
        speedup: expected, of the whole call; of the FLOPs where costs are those.
        cost: as the search had it.
        values: metric -> value on all prompts.
        noise: metric -> standard error on the first rung.
        held: metric -> value on held-out prompts, if there are any; None where it is no number, or the search
            was stopped before.
        recipe: how predictions are made, as in `dcache.search.space.RECIPES`; or `closed loop`, weights that
            were fitted on the pictures.
        number: of its evaluation.
    """

    name: str
    schedule: Schedule
    speedup: float
    cost: float
    values: dict[str, float]
    noise: dict[str, float]
    held_out_result: dict[str, float | None]
    recipe: str
    number: int


def members(search: Search) -> list[FrontEntry]:
    """The front, slowest first."""
    front, here = search.front(), {"machine": machine(), "versions": versions()}
    shown = tuple(search.signs) if any(one.held_out_result for one in front) else ()
    found: list[FrontEntry] = []
    for one in sorted(front, key=lambda c: -c.cost):
        speedup = search.uncached / one.cost if one.cost > 0 else float("inf")
        values = {name: round(one.value(name, search.rungs), 4) for name in search.signs}
        held = {name: _value(one.held_out_result, name) for name in shown}
        measured = {
            "expected_speedup": round(speedup, 3),
            "cost": search.by,
            **values,
            **({"held_out": held} if one.held_out_result else {}),
            **here,
        }
        name = f"{len(found):02d}-{speedup:.2f}x"
        schedule = replace(one.schedule, measured=measured)
        noise = {name: round(one.noise(name), 4) for name in search.signs}
        found.append(
            FrontEntry(
                name, schedule, speedup, one.cost, values, noise, held, _recipe(one, search), one.number
            )
        )
    return found


def _recipe(one: Candidate, search: Search) -> str:
    (plan,) = one.schedule.components.values()
    if one.fitted or plan.predictor == "reuse":
        return "closed loop" if one.fitted else "reuse"
    return search.space.recipes[one.genome[search.space.bits]].name


def _value(held: Mapping[str, Any] | None, metric: str) -> float | None:
    value = None if held is None else held["values"].get(metric)
    return None if value is None or not math.isfinite(value) else round(float(value), 4)


def pick(front: list[FrontEntry], speedup: float, metric: str, sign: int) -> FrontEntry:
    """The best of those that are fast enough.

    Raises:
        DcacheError: none is.
    """
    fast = [one for one in front if one.speedup >= speedup]
    if not fast:
        most = max((one.speedup for one in front), default=1.0)
        raise DcacheError(f"no schedule of the front is expected to be {speedup:g}x: at most {most:.2f}x")
    return max(fast, key=lambda one: sign * one.values[metric])


def hypervolume_history(search: Search) -> list[float]:
    """Hypervolume of the front after each evaluation, on the first rung.

    Measured from `Search.reference`, costs in units of an uncached call, metrics in their own: with one
    metric it is its gain over the cheapest schedule, summed over all costs up to the reference's.
    Without a reference (its pictures are broken) the worst of the candidates stands in its place.
    """
    points = [search.objectives(one) for one in search.candidates.values()]
    sane = [p for p in points if max(p) < WORST]
    if not sane:
        return [0.0] * len(points)
    reference = search.reference or tuple(map(max, zip(*sane, strict=True)))
    kept: list[Objectives] = []
    found: list[float] = []
    volume = 0.0
    for point in points:
        if max(point) < WORST and not any(all(map(le, k, point)) for k in kept):
            # What it dominates, less what of that was dominated before: of many objectives the front's volume
            # is slow to compute, and most of the front has no part in this.
            before = [tuple(map(max, k, point)) for k in kept]
            front = [before[i] for i in nondominated(before)]
            gain = hypervolume([point], reference) - hypervolume(front, reference)
            volume += gain / search.uncached
            kept = [k for k in kept if not all(map(ge, k, point))] + [point]
        found.append(volume)
    return found


def write(search: Search, ways: SearchConfig, about: Mapping[str, Any], out: Path) -> list[Path]:
    """Write front.json, front.csv, front.png, front.html and a schedule file for each member."""
    front = members(search)
    if not front:
        raise DcacheError(
            "nothing was found: every candidate's pictures are broken, or the budget is too small"
        )
    folder = files.make_folder(out / "schedules")
    for old in _written_before(out) - {f"schedules/{one.name}.schedule.json" for one in front}:
        (out / old).unlink(missing_ok=True)
    saved = [one.schedule.save(folder / f"{one.name}.schedule.json") for one in front]
    volumes = hypervolume_history(search)
    plot = draw(out / "front.png", search, front, volumes)
    content = {
        "format": FORMAT,
        "version": 1,
        "ways": asdict(ways),
        "about": dict(about),
        "evaluations": len(search.candidates),
        "asked": search.asked,
        "twins": search.twins,
        "broken": search.broken,
        "damaged_lines": search.journal.damaged,
        "renderings_of_fits": search.fits,
        "reference": search.reference,
        "hypervolume": [round(v, 6) for v in volumes],
        "spent": [one.spent for one in search.candidates.values()],
        "front": [_row(one) | {"schedule": f"schedules/{one.name}.schedule.json"} for one in front],
    }
    return [
        files.write_json(out / "front.json", content),
        files.write(out / "front.csv", lambda temporary: temporary.write_text(_csv(front), encoding="utf-8")),
        plot,
        files.write(
            out / "front.html", lambda t: t.write_text(_page(front, plot, content), encoding="utf-8")
        ),
        *saved,
    ]


def _written_before(out: Path) -> set[str]:
    """The schedule files that the last search here wrote; others in the folder are none of ours."""
    try:
        rows = json.loads((out / "front.json").read_text(encoding="utf-8"))["front"]
        return {str(row["schedule"]) for row in rows if _OURS.fullmatch(str(row["schedule"]))}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def draw(path: Path, search: Search, front: list[FrontEntry], volumes: list[float]) -> Path:
    """Every evaluation and the front, speedup against the first metric; how the hypervolume grew."""
    from dcache.eval.canvas import ACCENT, GREY, GRID, INK, new_figure, save

    metric = next(iter(search.signs))
    full = search.uncached
    figure = new_figure(10.0, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1.0))
    dots = [(full / c.cost, c.value(metric, 1)) for c in search.candidates.values() if c.cost > 0]
    shown = [(x, y) for x, y in dots if not math.isnan(y)]
    left.scatter(
        *zip(*shown, strict=True) if shown else ([], []), s=9, color=GREY, alpha=0.4, label="evaluated"
    )
    line = [(one.speedup, one.values[metric]) for one in front]
    left.plot(*zip(*line, strict=True), "o-", color=ACCENT, markersize=4, label="front, on all prompts")
    values = sorted(y for _, y in shown)
    if values:
        # One broken candidate must not squeeze all others into a line.
        worst = values[len(values) // 20] if search.signs[metric] > 0 else values[-1 - len(values) // 20]
        best = values[-1] if search.signs[metric] > 0 else values[0]
        margin = 0.05 * (best - worst) or 0.05 * abs(best) or 1.0
        left.set_ylim(*sorted((worst - margin, best + margin)))
    left.set_xlabel("expected speedup" if search.by == "seconds" else f"speedup ({search.by})", color=INK)
    left.set_ylabel(metric, color=INK)
    left.legend(frameon=False, fontsize=8)
    right.plot([one.spent for one in search.candidates.values()], volumes, color=ACCENT)
    right.set_xlabel("evaluations, renderings of fits included", color=INK)
    right.set_ylabel("hypervolume, first prompts", color=INK)
    for axes in (left, right):
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.tight_layout()
    return save(figure, path)


def _row(one: FrontEntry) -> dict[str, Any]:
    (plan,) = one.schedule.components.values()
    row: dict[str, Any] = {
        "name": one.name,
        "speedup": round(one.speedup, 4),
        "cost": one.cost,
        "evaluation": one.number,
        "recipe": one.recipe,
        "computed": plan.computed / (one.schedule.steps * len(plan.sites) * len(plan.rows)),
    }
    row |= one.values | {f"{name}_noise": value for name, value in one.noise.items()}
    return row | {f"{name}_held_out": value for name, value in one.held_out_result.items()}


def _csv(front: list[FrontEntry]) -> str:
    rows = [_row(one) for one in front]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _page(front: list[FrontEntry], plot: Path, content: Mapping[str, Any]) -> str:
    """One file that needs no other: the plot, the table, every schedule drawn."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from dcache.eval.schedules import draw_schedule

    def encoded(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    rows = [_row(one) for one in front]
    with tempfile.TemporaryDirectory() as scratch:
        drawn = {one.name: encoded(draw_schedule(Path(scratch) / "one.png", one.schedule)) for one in front}
    return templates.get_template("front.html").render(
        columns=list(rows[0]),
        rows=[[_text(value) for value in row.values()] for row in rows],
        evaluations=content["evaluations"],
        twins=content["twins"],
        plot=encoded(plot),
        schedules=drawn,
    )


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
