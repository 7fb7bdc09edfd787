"""The measurements of `measure_search.py`: equal budgets, rivals of the front, transfer to other calls."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from measure_methods import SETTINGS, choice, refusal

from dcache.demo.pipeline import GUIDANCE, STEPS, schedules
from dcache.demo.shipped import shipped_schedules
from dcache.errors import DcacheError, DcacheWarning
from dcache.eval.bench import bench
from dcache.eval.entries import BenchEntry
from dcache.eval.prompts import read
from dcache.eval.specs import MethodEntry
from dcache.eval.subject import Subject, load
from dcache.profile import Profile, cost
from dcache.schedule import Schedule
from dcache.schedulers.planners import PLANNERS, for_speedup
from dcache.search.evaluating.evaluators import ProcessPoolEvaluator
from dcache.search.evaluating.quality import QualityEvaluator
from dcache.search.front_report import hypervolume_history
from dcache.search.rendering.render import Renderer
from dcache.search.search import SearchConfig, identity_of, open_journal, rungs, search
from dcache.search.transfer import resample_steps
from dcache.util.files import make_folder

DOCS = Path(__file__).parent.parent / "docs"
GUIDANCES = {"on": GUIDANCE, "off": 1.0}
SPEEDUPS = (2.0, 3.0, 4.0)
# A schedule may miss a speedup by this factor: costs are no more precise.
LEEWAY = 0.95
MOST_WORK = 0.6
# Shares of FLOPs within this factor count as equal work.
ALIKE = 1.02
SEARCHED, HELD_OUT = "demo-train:12", "demo:32"
# Settings that are compared at equal budgets, without fits of weights.
CONTESTS: dict[str, dict[str, Any]] = {
    "random": {"strategy": "random", "seeds": False, "finishing": 0.0},
    "MAP-Elites": {"strategy": "map-elites", "seeds": False, "finishing": 0.0},
    "NSGA-II": {"strategy": "nsga2", "seeds": False, "finishing": 0.0},
    "planners + local": {"strategy": "local", "finishing": 0.6},
    "planners + NSGA-II + local": {"strategy": "nsga2", "finishing": 0.3},
}


def subject_of(guidance: float, **options: Any) -> Subject:
    """The shipped pipeline."""
    return load("demo", guidance=guidance, device="cpu", **options)


def quality_of(guidance: float, parts: list[list[str]]) -> QualityEvaluator:
    """The quality evaluator of a worker."""
    return QualityEvaluator(subject_of(guidance), parts)


def strategies(folder: Path, budget: int, seeds: int, workers: int) -> dict[str, Any]:
    """Hypervolume after each evaluation, by guidance, strategy and seed of its decisions."""
    prompts = read(SEARCHED)
    figures: dict[str, Any] = {"budget": budget, "prompts": SEARCHED}
    for mode, guidance in GUIDANCES.items():
        profile = Profile.load(folder / f"{mode}.profile.safetensors")
        parts = rungs(prompts, SearchConfig().first)
        # The same pictures for all strategies, with one journal: each schedule is rendered only once.
        identity = identity_of(SearchConfig(), prompts, {"guidance": guidance})
        out = make_folder(folder / f"strategies-{mode}")
        journal = open_journal(out, identity, resume=(out / "search.jsonl").exists())
        evaluator = ProcessPoolEvaluator(partial(quality_of, guidance, parts), workers, 1)
        try:
            figures[mode] = {
                name: [
                    _run(
                        profile,
                        evaluator,
                        prompts,
                        journal,
                        SearchConfig(**options, budget=budget, fitting=0.0, seed=seed),
                    )
                    for seed in range(seeds)
                ]
                for name, options in CONTESTS.items()
            }
        finally:
            evaluator.close()
    return figures


def _run(
    profile: Profile, evaluator: ProcessPoolEvaluator, prompts: list[str], journal: Any, config: SearchConfig
) -> dict[str, Any]:
    done = search(profile, config, evaluator, prompts, {"psnr": 1}, journal)
    best = {
        f"{speedup:g}": max(
            (
                c.value("psnr", 1)
                for c in done.candidates.values()
                if done.uncached / c.cost >= LEEWAY * speedup
            ),
            default=None,
        )
        for speedup in SPEEDUPS
    }
    volumes = [round(v, 4) for v in hypervolume_history(done)]
    print(
        f"{config.strategy}, seeds {config.seeds}, {config.seed}: {volumes[-1]:.3f}, {best}", file=sys.stderr
    )
    return {"hypervolume": volumes, "best": best, "twins": done.twins, "asked": done.asked}


def rivals(folder: Path, repeats: int, modes: Sequence[str]) -> dict[str, Any]:
    """Work and PSNR of front, presets, planners and peers on eight held-out captions; PSNR on all of them."""
    figures: dict[str, Any] = {}
    for mode in modes:
        guidance = GUIDANCES[mode]
        subject = subject_of(guidance)
        profile = Profile.load(folder / f"{mode}.profile.safetensors")
        groups: dict[str, list[BenchEntry]] = {
            "front": list(_front(folder / mode)),
            "calibrated": list(shipped_schedules(schedules(), STEPS, guidance)),
            "planner": list(_planned(profile, folder / mode)),
            "preset": list(_presets(subject)),
            "peer": list(_peers(folder, subject)),
        }
        every = [entry for group in groups.values() for entry in group]
        kinds = [kind for kind, group in groups.items() for _ in group]

        def progress(turn: int, label: str, mode: str = mode) -> None:
            if label == "uncached":
                print(f"guidance {mode}, round {turn} of {repeats}", file=sys.stderr)

        done = bench(subject, every, read("demo:8"), repeats=repeats, progress=progress)
        held_out = Renderer(subject, read(HELD_OUT), 1000)
        front = json.loads((folder / mode / "front.json").read_text(encoding="utf-8"))["front"]
        searched = {f"front {row['name']}": row["psnr"] for row in front}
        rows = []
        for kind, entry, result in zip(kinds, every, done.rows, strict=True):
            row = {"kind": kind, "label": entry.label, "speedup": result.speedup, "spread": result.spread}
            row |= {"flops": result.flops, "psnr": result.mean_psnr, "searched": searched.get(entry.label)}
            method = getattr(entry, "method", None)
            if kind in ("front", "calibrated", "planner") and method is not None:
                row |= {"held": held_out.quality(method), "expected": _expected(method, profile)}
            rows.append(row)
        figures[mode] = {"rows": rows, "uncached_seconds": done.uncached.median}
    return figures


def _expected(schedule: Schedule, profile: Profile) -> float | None:
    """Speedup expected from the profile; None if it has no latencies of the schedule's sites."""
    try:
        return cost.speedup(schedule, profile.latencies) if profile.latencies is not None else None
    except DcacheError:
        return None


def _front(folder: Path) -> Iterator[MethodEntry]:
    """The schedules of a front above 1.2x."""
    content = json.loads((folder / "front.json").read_text(encoding="utf-8"))
    for row in content["front"]:
        if row["speedup"] > 1.2:
            path = folder / row["schedule"]
            yield MethodEntry(f"front {row['name']}", f"front {row['name']}", method=Schedule.load(path))


def _planned(profile: Profile, folder: Path) -> Iterator[MethodEntry]:
    """Plans of every planner, for the expected speedups of the front's schedules."""
    for speedup in SPEEDUPS:
        wanted = cost.speedup(_nearest(folder, speedup), profile.latencies) / ALIKE  # type: ignore[arg-type]
        for name in PLANNERS:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DcacheWarning)
                    schedule = for_speedup(profile, name, wanted)
            except DcacheError:
                continue
            yield MethodEntry(f"{name} {speedup:g}x", f"{name} {speedup:g}x", method=schedule)


def _presets(subject: Subject) -> Iterator[MethodEntry]:
    (prompt,) = read("demo:1")
    for name, settings in SETTINGS.items():
        for options in settings:
            entry = choice(name, options)
            if not refusal(subject, prompt, entry):
                yield replace(entry, label=f"{name}: {entry.label}")


def _peers(folder: Path, subject: Subject) -> Iterator[BenchEntry]:
    """Settings of examples/bench_peers that work here, of the installed libraries.

    Settings that compute more than `MOST_WORK` of the FLOPs, by docs/bench.json, are left out.
    """
    sys.path.insert(0, str(Path(__file__).parent / "bench_peers"))
    import contestants

    (prompt,) = read("demo:1")
    figures = json.loads((DOCS / "bench.json").read_text(encoding="utf-8"))
    heavy = {label for label, least in _least_work(figures).items() if least > MOST_WORK}
    for library in contestants.LIBRARIES[1:]:
        if importlib.util.find_spec(library.replace("-", "_")) is not None:
            for entry in contestants.of_library(library, "demo", subject, folder):
                if (library, entry.label) not in heavy and not refusal(subject, prompt, entry):
                    yield entry


def _least_work(content: Any) -> dict[tuple[str, str], float]:
    """(library, label) -> smallest share of FLOPs, over all rows at any depth of a JSON value."""
    least: dict[tuple[str, str], float] = {}
    items = content if isinstance(content, list) else content.values() if isinstance(content, dict) else []
    for item in items:
        if isinstance(item, dict) and {"library", "label", "flops"} <= set(item):
            key = (item["library"], item["label"])
            least[key] = min(least.get(key, 1.0), item["flops"] or 1.0)
        else:
            for key, value in _least_work(item).items():
                least[key] = min(least.get(key, 1.0), value)
    return least


def transfer(folder: Path) -> list[dict[str, Any]]:
    """PSNR of the front's schedules for 2x, 3x and 4x with other calls than searched, and of even places."""
    rows = []
    for mode, guidance in GUIDANCES.items():
        chosen = {speedup: _nearest(folder / mode, speedup) for speedup in SPEEDUPS}
        places: list[tuple[str, dict[str, Any], int]] = [("as searched", {}, STEPS)]
        places += [(f"{steps} steps", {"steps": steps}, steps) for steps in (12, 30, 50)]
        places += [(f"{side} x {side}", {"height": side, "width": side}, STEPS) for side in (48, 96)]
        if mode == "on":
            places += [(f"guidance {g:g}", {"guidance": g}, STEPS) for g in (2.0, 5.0)]
        for what, options, steps in places:
            subject = subject_of(**{"guidance": guidance, **options})
            held_out = Renderer(subject, read(HELD_OUT)[:16], 1000)
            row: dict[str, Any] = {"guidance": mode, "where": what}
            for speedup, searched in chosen.items():
                schedule = resample_steps(searched, steps)
                row[f"{speedup:g}"] = _quietly(held_out.quality, schedule)
                row[f"even {speedup:g}"] = _quietly(held_out.quality, _even_like(schedule))
            print(row, file=sys.stderr)
            rows.append(row)
    return rows


def _quietly(quality: Callable[[Schedule], float], schedule: Schedule) -> float:
    """Quality without the warning that the schedule was made for other calls, which is intended here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DcacheWarning)
        return quality(schedule)


def _nearest(folder: Path, speedup: float) -> Schedule:
    """The best schedule of a front with about this speedup or more."""
    rows = json.loads((folder / "front.json").read_text(encoding="utf-8"))["front"]
    fast = [row for row in rows if row["speedup"] >= LEEWAY * speedup]
    return Schedule.load(folder / max(fast, key=lambda row: row["psnr"])["schedule"])


def _even_like(schedule: Schedule) -> Schedule:
    """A schedule with as many computed evaluations at equal distances, which predicts by half of the line."""
    ((name, plan),) = schedule.components.items()
    (row,) = {row for rows in plan.rows.values() for row in rows.values()}
    count, steps = sum(row), schedule.steps
    even = tuple(t in {i * steps // count for i in range(count)} for t in range(steps))
    rows = {"*": dict.fromkeys(plan.sites, even)}
    bare = replace(plan, rows=rows, predictor="linear", parameters={"weight": 0.5}, clock=None)
    return replace(schedule, components={name: bare})
