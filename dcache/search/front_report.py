"""Files of a search: the front as schedule files, table, plot and page."""

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
from dcache.search.evaluating.candidate import Candidate
from dcache.search.evaluating.loop import Search
from dcache.search.genomes.front import WORST, Objectives, hypervolume, nondominated
from dcache.search.search import SearchConfig
from dcache.util import files

FORMAT = "dcache.front"
_OURS = re.compile(r"schedules/[\w.-]+\.schedule\.json")


@dataclass(frozen=True)
class FrontEntry:
    """One schedule of the front.

    Attributes:
        name: name of its file, without the ending.
        schedule: the schedule, with its figures in `measured`.
        speedup: expected speedup of the whole call; of the FLOPs if costs are FLOPs.
        cost: cost in the unit of the search.
        values: metric -> value on all prompts.
        noise: metric -> standard error on the first rung.
        held_out_result: metric -> value on held-out prompts; None if it is no number, or if the search was
            stopped before. Empty without held-out prompts.
        recipe: name of the recipe in `dcache.search.genomes.space.RECIPES`; or `closed loop` for weights that
            were fitted on the pictures.
        number: order of its evaluation.
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
    held_out_metrics = tuple(search.signs) if any(candidate.held_out_result for candidate in front) else ()
    entries: list[FrontEntry] = []
    for candidate in sorted(front, key=lambda c: -c.cost):
        speedup = search.uncached / candidate.cost if candidate.cost > 0 else float("inf")
        values = {name: round(candidate.value(name, search.rungs), 4) for name in search.signs}
        held_out = {name: _value(candidate.held_out_result, name) for name in held_out_metrics}
        measured = {
            "expected_speedup": round(speedup, 3),
            "cost": search.by,
            **values,
            **({"held_out": held_out} if candidate.held_out_result else {}),
            **here,
        }
        name = f"{len(entries):02d}-{speedup:.2f}x"
        schedule = replace(candidate.schedule, measured=measured)
        noise = {name: round(candidate.noise(name), 4) for name in search.signs}
        entries.append(
            FrontEntry(
                name,
                schedule,
                speedup,
                candidate.cost,
                values,
                noise,
                held_out,
                _recipe(candidate, search),
                candidate.number,
            )
        )
    return entries


def _recipe(candidate: Candidate, search: Search) -> str:
    (plan,) = candidate.schedule.components.values()
    if candidate.fitted or plan.predictor == "reuse":
        return "closed loop" if candidate.fitted else "reuse"
    return search.space.recipes[candidate.genome[search.space.bits]].name


def _value(result: Mapping[str, Any] | None, metric: str) -> float | None:
    value = None if result is None else result["values"].get(metric)
    return None if value is None or not math.isfinite(value) else round(float(value), 4)


def pick(front: list[FrontEntry], speedup: float, metric: str, sign: int) -> FrontEntry:
    """The best entry, by a metric, with at least this speedup.

    Raises:
        DcacheError: no entry is that fast.
    """
    fast = [entry for entry in front if entry.speedup >= speedup]
    if not fast:
        most = max((entry.speedup for entry in front), default=1.0)
        raise DcacheError(f"no schedule of the front is expected to be {speedup:g}x: at most {most:.2f}x")
    return max(fast, key=lambda entry: sign * entry.values[metric])


def hypervolume_history(search: Search) -> list[float]:
    """Hypervolume of the front after each evaluation, on the first rung.

    The reference point is `Search.reference`, or the worst of all candidates if that is None. Costs are in
    units of an uncached call, metrics in their own units. With one metric, the hypervolume is the metric's
    gain over the cheapest schedule, integrated over cost up to the reference's cost.
    """
    points = [search.objectives(candidate) for candidate in search.candidates.values()]
    sane = [p for p in points if max(p) < WORST]
    if not sane:
        return [0.0] * len(points)
    reference = search.reference or tuple(map(max, zip(*sane, strict=True)))
    front: list[Objectives] = []
    history: list[float] = []
    volume = 0.0
    for point in points:
        if max(point) < WORST and not any(all(map(le, k, point)) for k in front):
            # The gain is the volume that the point dominates, minus the part of it that the front dominated
            # before. Clipped to the point's region most of the front drops out, which keeps the computation
            # fast for many objectives.
            clipped = [tuple(map(max, k, point)) for k in front]
            shared = [clipped[i] for i in nondominated(clipped)]
            gain = hypervolume([point], reference) - hypervolume(shared, reference)
            volume += gain / search.uncached
            front = [k for k in front if not all(map(ge, k, point))] + [point]
        history.append(volume)
    return history


def write(search: Search, config: SearchConfig, about: Mapping[str, Any], out: Path) -> list[Path]:
    """Write front.json, front.csv, front.png, front.html and a schedule file for each entry.

    Raises:
        DcacheError: the front is empty, or a file cannot be written.
    """
    front = members(search)
    if not front:
        raise DcacheError(
            "the front is empty: every candidate's pictures are broken, or the budget is too small. Try more "
            "sampling steps, or a larger --budget"
        )
    folder = files.make_folder(out / "schedules")
    for old in _written_before(out) - {f"schedules/{entry.name}.schedule.json" for entry in front}:
        (out / old).unlink(missing_ok=True)
    saved = [entry.schedule.save(folder / f"{entry.name}.schedule.json") for entry in front]
    volumes = hypervolume_history(search)
    plot = draw(out / "front.png", search, front, volumes)
    content = {
        "format": FORMAT,
        "version": 1,
        "ways": asdict(config),
        "about": dict(about),
        "evaluations": len(search.candidates),
        "asked": search.asked,
        "twins": search.twins,
        "broken": search.broken,
        "damaged_lines": search.journal.damaged,
        "renderings_of_fits": search.fits,
        "reference": search.reference,
        "hypervolume": [round(v, 6) for v in volumes],
        "spent": [entry.spent for entry in search.candidates.values()],
        "front": [_row(entry) | {"schedule": f"schedules/{entry.name}.schedule.json"} for entry in front],
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
    """Paths of the schedule files that an earlier search wrote here; only these may be deleted."""
    try:
        rows = json.loads((out / "front.json").read_text(encoding="utf-8"))["front"]
        return {str(row["schedule"]) for row in rows if _OURS.fullmatch(str(row["schedule"]))}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def draw(path: Path, search: Search, front: list[FrontEntry], volumes: list[float]) -> Path:
    """Plot all evaluations and the front, speedup against the first metric, and the hypervolume's growth."""
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
    line = [(entry.speedup, entry.values[metric]) for entry in front]
    left.plot(*zip(*line, strict=True), "o-", color=ACCENT, markersize=4, label="front, on all prompts")
    values = sorted(y for _, y in shown)
    if values:
        # Limits without the worst 5 %: one bad candidate must not squeeze all others into a line.
        worst = values[len(values) // 20] if search.signs[metric] > 0 else values[-1 - len(values) // 20]
        best = values[-1] if search.signs[metric] > 0 else values[0]
        margin = 0.05 * (best - worst) or 0.05 * abs(best) or 1.0
        left.set_ylim(*sorted((worst - margin, best + margin)))
    left.set_xlabel("expected speedup" if search.by == "seconds" else f"speedup ({search.by})", color=INK)
    left.set_ylabel(metric, color=INK)
    left.legend(frameon=False, fontsize=8)
    right.plot([candidate.spent for candidate in search.candidates.values()], volumes, color=ACCENT)
    right.set_xlabel("evaluations, renderings of fits included", color=INK)
    right.set_ylabel("hypervolume, first prompts", color=INK)
    for axes in (left, right):
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.tight_layout()
    return save(figure, path)


def _row(entry: FrontEntry) -> dict[str, Any]:
    (plan,) = entry.schedule.components.values()
    row: dict[str, Any] = {
        "name": entry.name,
        "speedup": round(entry.speedup, 4),
        "cost": entry.cost,
        "evaluation": entry.number,
        "recipe": entry.recipe,
        "computed": plan.computed / (entry.schedule.steps * len(plan.sites) * len(plan.rows)),
    }
    row |= entry.values | {f"{name}_noise": value for name, value in entry.noise.items()}
    return row | {f"{name}_held_out": value for name, value in entry.held_out_result.items()}


def _csv(front: list[FrontEntry]) -> str:
    rows = [_row(entry) for entry in front]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _page(front: list[FrontEntry], plot: Path, content: Mapping[str, Any]) -> str:
    """A self-contained HTML page: plot, table and a drawing of every schedule."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from dcache.eval.schedules import draw_schedule

    def encoded(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    rows = [_row(entry) for entry in front]
    with tempfile.TemporaryDirectory() as scratch:
        drawn = {
            entry.name: encoded(draw_schedule(Path(scratch) / "one.png", entry.schedule)) for entry in front
        }
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
