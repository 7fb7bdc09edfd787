"""Measure `dcache search` on the shipped model, and write the tables and the picture of docs/search.md.

    python examples/measure_search.py strategies --folder work     # equal budgets: half an hour of two cores
    python examples/measure_search.py rivals --folder work         # fronts against everything: ten minutes
    python examples/measure_search.py transfer --folder work       # other steps, guidance, sizes: a minute
    python examples/measure_search.py page                         # docs/search.md and its picture, anew

The folder has, for the guidances `on` and `off`, a profile (`on.profile.safetensors`: dcache calibrate) and a
finished search (`on`, `off`: dcache search); docs/search.md has the commands. Figures go to docs/search.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from measure_methods import SETTINGS, choice, fill, refusal

from dcache.demo.pipeline import GUIDANCE, SCHEDULES, STEPS
from dcache.demo.shipped import shipped_schedules
from dcache.errors import DcacheError, DcacheWarning
from dcache.eval.bench import bench
from dcache.eval.canvas import ACCENT, GREY, GRID, INK, new_figure, save
from dcache.eval.entries import BenchEntry
from dcache.eval.machine import machine, versions
from dcache.eval.prompts import read
from dcache.eval.specs import MethodEntry
from dcache.eval.subject import Subject, load
from dcache.profile import Profile, cost
from dcache.schedule import Schedule
from dcache.schedulers.planners import PLANNERS, for_speedup
from dcache.search.evaluators import ProcessPoolEvaluator
from dcache.search.front_report import hypervolume_history
from dcache.search.quality import QualityEvaluator
from dcache.search.render import Renderer
from dcache.search.search import SearchConfig, identity_of, open_journal, rungs, search
from dcache.search.transfer import resample_steps
from dcache.util.files import make_folder, write_json

DOCS = Path(__file__).parent.parent / "docs"
KEPT = DOCS / "search.json"
GUIDANCES = {"on": GUIDANCE, "off": 1.0}
SPEEDUPS = (2.0, 3.0, 4.0)
# Costs are not known better than this: what is as fast within it counts as fast enough.
LEEWAY = 0.95
MOST_WORK = 0.6
# As much work: anchors are stored and summed here and there.
ALIKE = 1.02
SEARCHED, HELD = "demo-train:12", "demo:32"
# What takes part in the comparison of equal budgets; each alone, without fits of weights.
CONTESTS: dict[str, dict[str, Any]] = {
    "random": {"strategy": "random", "seeds": False, "finishing": 0.0},
    "MAP-Elites": {"strategy": "map-elites", "seeds": False, "finishing": 0.0},
    "NSGA-II": {"strategy": "nsga2", "seeds": False, "finishing": 0.0},
    "planners + local": {"strategy": "local", "finishing": 0.6},
    "planners + NSGA-II + local": {"strategy": "nsga2", "finishing": 0.3},
}
COLOURS = ("#9ca3af", "#d97706", "#16a34a", ACCENT, "#9333ea")


def subject_of(guidance: float, **options: Any) -> Subject:
    """The shipped pipeline."""
    return load("demo", guidance=guidance, device="cpu", **options)


def judge_of(guidance: float, parts: list[list[str]]) -> QualityEvaluator:
    """The judge of a worker."""
    return QualityEvaluator(subject_of(guidance), parts)


def strategies(folder: Path, budget: int, seeds: int, workers: int) -> dict[str, Any]:
    """Hypervolume after each evaluation, by guidance, strategy and seed of its decisions."""
    prompts = read(SEARCHED)
    found: dict[str, Any] = {"budget": budget, "prompts": SEARCHED}
    for mode, guidance in GUIDANCES.items():
        profile = Profile.load(folder / f"{mode}.profile.safetensors")
        parts = rungs(prompts, SearchConfig().first)
        # The pictures are the same for all, so that each schedule is rendered once for all.
        identity = identity_of(SearchConfig(), prompts, {"guidance": guidance})
        kept = make_folder(folder / f"strategies-{mode}")
        journal = open_journal(kept, identity, resume=(kept / "search.jsonl").exists())
        team = ProcessPoolEvaluator(partial(judge_of, guidance, parts), workers, 1)
        try:
            found[mode] = {
                name: [
                    _grown(
                        profile,
                        team,
                        prompts,
                        journal,
                        SearchConfig(**how, budget=budget, fitting=0.0, seed=seed),
                    )
                    for seed in range(seeds)
                ]
                for name, how in CONTESTS.items()
            }
        finally:
            team.close()
    return found


def _grown(
    profile: Profile, team: ProcessPoolEvaluator, prompts: list[str], journal: Any, ways: SearchConfig
) -> dict[str, Any]:
    done = search(profile, ways, team, prompts, {"psnr": 1}, journal)
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
    print(f"{ways.strategy}, seeds {ways.seeds}, {ways.seed}: {volumes[-1]:.3f}, {best}", file=sys.stderr)
    return {"hypervolume": volumes, "best": best, "twins": done.twins, "asked": done.asked}


def rivals(folder: Path, repeats: int, modes: Sequence[str]) -> dict[str, Any]:
    """Work and PSNR of everything there is on eight held-out captions, in turns; PSNR on all held out."""
    found: dict[str, Any] = {}
    for mode in modes:
        guidance = GUIDANCES[mode]
        subject = subject_of(guidance)
        profile = Profile.load(folder / f"{mode}.profile.safetensors")
        groups: dict[str, list[BenchEntry]] = {
            "front": list(_front(folder / mode)),
            "calibrated": list(shipped_schedules(SCHEDULES, STEPS, guidance)),
            "planner": list(_planned(profile, folder / mode)),
            "preset": list(_presets(subject)),
            "peer": list(_peers(folder, subject)),
        }
        every = [one for group in groups.values() for one in group]
        kinds = [kind for kind, group in groups.items() for _ in group]

        def tell(turn: int, label: str, mode: str = mode) -> None:
            if label == "uncached":
                print(f"guidance {mode}, round {turn} of {repeats}", file=sys.stderr)

        done = bench(subject, every, read("demo:8"), repeats=repeats, tell=tell)
        held = Renderer(subject, read(HELD), 1000)
        front = json.loads((folder / mode / "front.json").read_text(encoding="utf-8"))["front"]
        searched = {f"front {row['name']}": row["psnr"] for row in front}
        rows = []
        for kind, one, its in zip(kinds, every, done.rows, strict=True):
            row = {"kind": kind, "label": one.label, "speedup": its.speedup, "spread": its.spread}
            row |= {"flops": its.flops, "psnr": its.mean_psnr, "searched": searched.get(one.label)}
            method = getattr(one, "method", None)
            if kind in ("front", "calibrated", "planner") and method is not None:
                row |= {"held": held.quality(method), "expected": _expected(method, profile)}
            rows.append(row)
        found[mode] = {"rows": rows, "uncached_seconds": done.uncached.median}
    return found


def _expected(schedule: Schedule, profile: Profile) -> float | None:
    """Speedup by the profile, None where it has not timed the schedule's sites."""
    try:
        return cost.speedup(schedule, profile.latencies) if profile.latencies is not None else None
    except DcacheError:
        return None


def _front(folder: Path) -> Iterator[MethodEntry]:
    """Every member of a front that is faster than half of the pace of the slowest speedup asked for."""
    content = json.loads((folder / "front.json").read_text(encoding="utf-8"))
    for row in content["front"]:
        if row["speedup"] > 1.2:
            path = folder / row["schedule"]
            yield MethodEntry(f"front {row['name']}", f"front {row['name']}", method=Schedule.load(path))


def _planned(profile: Profile, folder: Path) -> Iterator[MethodEntry]:
    """Every planner, asked for what the front's schedule for each speedup is expected to reach."""
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
            one = choice(name, options)
            if not refusal(subject, prompt, one):
                yield replace(one, label=f"{name}: {one.label}")


def _peers(folder: Path, subject: Subject) -> Iterator[BenchEntry]:
    """The settings of examples/bench_peers that work here, of the libraries that are installed.

    Those that docs/bench.json knows to leave more than `MOST_WORK` of the FLOPs are left out.
    """
    sys.path.insert(0, str(Path(__file__).parent / "bench_peers"))
    import contestants

    (prompt,) = read("demo:1")
    told = json.loads((DOCS / "bench.json").read_text(encoding="utf-8"))
    heavy = {label for label, least in _least_work(told).items() if least > MOST_WORK}
    for library in contestants.LIBRARIES[1:]:
        if importlib.util.find_spec(library.replace("-", "_")) is not None:
            for one in contestants.of_library(library, "demo", subject, folder):
                if (library, one.label) not in heavy and not refusal(subject, prompt, one):
                    yield one


def _least_work(told: Any) -> dict[tuple[str, str], float]:
    """(library, label) -> the least share of FLOPs in what a file of the bench says."""
    found: dict[tuple[str, str], float] = {}
    for one in told if isinstance(told, list) else told.values() if isinstance(told, dict) else []:
        if isinstance(one, dict) and {"library", "label", "flops"} <= set(one):
            key = (one["library"], one["label"])
            found[key] = min(found.get(key, 1.0), one["flops"] or 1.0)
        else:
            for key, value in _least_work(one).items():
                found[key] = min(found.get(key, 1.0), value)
    return found


def transfer(folder: Path) -> list[dict[str, Any]]:
    """PSNR of the front's schedules for 2x, 3x and 4x where they were not searched, beside even places."""
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
            held = Renderer(subject, read(HELD)[:16], 1000)
            row: dict[str, Any] = {"guidance": mode, "where": what}
            for speedup, schedule in chosen.items():
                own = resample_steps(schedule, steps)
                row[f"{speedup:g}"] = _quietly(held.quality, own)
                row[f"even {speedup:g}"] = _quietly(held.quality, _even_like(own))
            print(row, file=sys.stderr)
            rows.append(row)
    return rows


def _quietly(quality: Callable[[Schedule], float], schedule: Schedule) -> float:
    """Without the warning that it was made for other calls: that is what is asked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DcacheWarning)
        return quality(schedule)


def _nearest(folder: Path, speedup: float) -> Schedule:
    """The best of a front that is as fast."""
    rows = json.loads((folder / "front.json").read_text(encoding="utf-8"))["front"]
    fast = [row for row in rows if row["speedup"] >= LEEWAY * speedup]
    return Schedule.load(folder / max(fast, key=lambda row: row["psnr"])["schedule"])


def _even_like(schedule: Schedule) -> Schedule:
    """As many computes at equal distances, predicted by reuse and half a line: the usual template."""
    ((name, plan),) = schedule.components.items()
    (row,) = {row for rows in plan.rows.values() for row in rows.values()}
    count, steps = sum(row), schedule.steps
    even = tuple(t in {i * steps // count for i in range(count)} for t in range(steps))
    rows = {"*": dict.fromkeys(plan.sites, even)}
    bare = replace(plan, rows=rows, predictor="linear", parameters={"weight": 0.5}, clock=None)
    return replace(schedule, components={name: bare})


def chosen(rows: Sequence[dict[str, Any]], kind: str, by: str) -> dict[str, Any] | None:
    """The best of a kind, by the very figure that is shown."""
    own = [r for r in rows if r["kind"] == kind and r.get(by) is not None]
    return max(own, key=lambda r: float(r[by]), default=None)


def of_front(rows: Sequence[dict[str, Any]], speedup: float) -> dict[str, Any]:
    """The front's schedule for a speedup."""
    fast = [r for r in rows if r["kind"] == "front" and r["expected"] >= LEEWAY * speedup]
    return max(fast, key=lambda r: float(r["searched"]))


def lines(kept: dict[str, Any]) -> list[str]:
    """The tables in Markdown, each with a line that says what it is of."""
    hardware, software = kept["machine"], kept["versions"]
    return [
        f"{hardware['processor']}, {hardware['threads']} thread(s), torch {software['torch']}, diffusers "
        f"{software['diffusers']}, float32.",
        "",
        "The best of each kind with as little work as the front's schedule for 2x, 3x and 4x (share of an "
        f"uncached call's FLOPs, within {ALIKE - 1:.0%}), eight held-out captions, PSNR. The front's "
        "is chosen by what was searched, the others by the very figure that is shown:",
        "",
        *_rival_lines(kept["rivals"]),
        "",
        f"The best that are expected to be as fast by the profile's seconds (within {ALIKE - 1:.0%}), 32 "
        "held-out captions:",
        "",
        *_held_lines(kept["rivals"]),
        "",
        f"Equal budgets: {kept['strategies']['budget']} evaluations on the first four prompts; hypervolume, "
        f"means over {len(kept['strategies']['on']['random'])} seeds of the strategy's decisions, and the "
        "best PSNR at each speedup:",
        "",
        *_strategy_lines(kept["strategies"]),
        "",
        "Elsewhere than where they were searched, 16 held-out captions, PSNR in dB of the front's schedule "
        "and of as many even computes (half of the line):",
        "",
        *_transfer_lines(kept["transfer"]),
    ]


def _held_lines(found: dict[str, Any]) -> list[str]:
    kinds = {"calibrated": "`auto`", "planner": "best planner"}
    table = ["| guidance | expected | front | " + " | ".join(kinds.values()) + " |", "|---|---|---|---|---|"]
    for mode in GUIDANCES:
        rows = found[mode]["rows"]
        for speedup in SPEEDUPS:
            own = of_front(rows, speedup)
            fast = [r for r in rows if (r.get("expected") or 0.0) >= own["expected"] / ALIKE]
            cells = [f"{own['held']:.1f} dB", *(_cell(chosen(fast, kind, "held"), "held") for kind in kinds)]
            table.append(f"| {mode} | {own['expected']:.2f}x | " + " | ".join(cells) + " |")
    return table


def _rival_lines(found: dict[str, Any]) -> list[str]:
    kinds = {
        "calibrated": "`auto`",
        "planner": "best planner",
        "preset": "best preset",
        "peer": "best peer",
    }
    heads = ["guidance", "work", "front", *kinds.values()]
    table = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for mode in GUIDANCES:
        rows = found[mode]["rows"]
        for speedup in SPEEDUPS:
            own = of_front(rows, speedup)
            little = [r for r in rows if r["flops"] and r["flops"] <= own["flops"] * ALIKE]
            cells = [
                f"{own['psnr']:.1f} dB",
                *(_cell(chosen(little, kind, "psnr"), "psnr") for kind in kinds),
            ]
            share = f"{own['flops']:.0%}".replace("%", " %")
            table.append(f"| {mode} | {share} | " + " | ".join(cells) + " |")
    return table


def _cell(row: dict[str, Any] | None, by: str) -> str:
    if row is None:
        return "–"
    return f"{row[by]:.1f} dB" + ("" if row["kind"] == "calibrated" else f" ({row['label']})")


def _strategy_lines(found: dict[str, Any]) -> list[str]:
    heads = ["strategy", *(f"{m}: {h}" for m in GUIDANCES for h in ("hypervolume", "2x", "3x", "4x"))]
    table = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name in CONTESTS:
        cells = [name]
        for mode in GUIDANCES:
            runs = found[mode][name]
            volumes = [run["hypervolume"][-1] for run in runs]
            cells.append(f"{statistics.mean(volumes):.2f} ({min(volumes):.2f} to {max(volumes):.2f})")
            for speedup in SPEEDUPS:
                values = [run["best"][f"{speedup:g}"] for run in runs]
                known = [v for v in values if v is not None]
                cells.append(f"{statistics.mean(known):.1f}" if known else "–")
        table.append("| " + " | ".join(cells) + " |")
    return table


def _transfer_lines(found: list[dict[str, Any]]) -> list[str]:
    heads = ["guidance", "where", *(f"{s:g}x: front / even" for s in SPEEDUPS)]
    table = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in found:
        cells = [f"{row[f'{s:g}']:.1f} / {row[f'even {s:g}']:.1f}" for s in SPEEDUPS]
        table.append(f"| {row['guidance']} | {row['where']} | " + " | ".join(cells) + " |")
    return table


def draw(path: Path, kept: dict[str, Any]) -> Path:
    """Above all rivals against the front, below how the hypervolume grew; with guidance left."""
    figure = new_figure(10.4, 8.0)
    axes = figure.subplots(2, 2)
    markers = {
        "preset": ("s", GREY),
        "peer": ("^", "#d97706"),
        "planner": ("D", "#16a34a"),
        "calibrated": ("*", "#9333ea"),
    }
    for (above, below), mode in zip(axes.T, GUIDANCES, strict=True):
        rows = [r for r in kept["rivals"][mode]["rows"] if r["psnr"] and r["flops"]]
        for kind, (marker, colour) in markers.items():
            dots = [(1 / r["flops"], r["psnr"]) for r in rows if r["kind"] == kind]
            size = 60 if kind == "calibrated" else 18
            above.scatter(
                *zip(*dots, strict=True) if dots else ([], []),
                marker=marker,
                color=colour,
                s=size,
                label=kind,
            )
        line = sorted((1 / r["flops"], r["psnr"]) for r in rows if r["kind"] == "front")
        above.plot(*zip(*line, strict=True), "o-", color=ACCENT, markersize=4, label="searched front")
        above.set_ylim(15, 65)
        above.set_title(
            "no guidance" if mode == "off" else f"guidance {GUIDANCE:g}", size=10, color=GREY, loc="left"
        )
        above.set_xlabel("uncached FLOPs / FLOPs", color=INK)
        above.set_ylabel("PSNR, held-out captions (dB)", color=INK)
        for colour, (name, runs) in zip(COLOURS, kept["strategies"][mode].items(), strict=True):
            for i, run in enumerate(runs):
                volumes = run["hypervolume"]
                below.plot(
                    range(1, len(volumes) + 1),
                    volumes,
                    color=colour,
                    linewidth=1.2,
                    label=name if i == 0 else None,
                )
        below.set_xlabel("evaluations", color=INK)
        below.set_ylabel("hypervolume (dB over the cheapest)", color=INK)
        for one in (above, below):
            one.grid(color=GRID, linewidth=0.7)
            one.set_axisbelow(True)
            one.legend(frameon=False, fontsize=7)
            for side in ("top", "right"):
                one.spines[side].set_visible(False)
    figure.tight_layout()
    return save(figure, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("strategies", "rivals", "transfer", "page"))
    parser.add_argument("--folder", type=Path, help="with the profiles and the searches")
    parser.add_argument("--budget", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each strategy")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1, help="timed calls of each rival")
    parser.add_argument("--only", choices=tuple(GUIDANCES), help="rivals: of this guidance; the rest is kept")
    options = parser.parse_args()
    try:
        kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
        if options.what == "page":
            fill(DOCS / "search.md", "\n".join(lines(kept)))
            print(f"wrote {DOCS / 'search.md'} and {draw(DOCS / 'pictures' / 'search.png', kept)}")
            return 0
        if options.folder is None:
            raise DcacheError("--folder is missing: where the profiles and the searches are")
        if options.what == "strategies":
            found: Any = strategies(options.folder, options.budget, options.seeds, options.workers)
        elif options.what == "rivals":
            modes = [options.only] if options.only else list(GUIDANCES)
            found = kept.get("rivals", {}) | rivals(options.folder, options.repeats, modes)
        else:
            found = transfer(options.folder)
        kept |= {options.what: found, "machine": machine(), "versions": versions()}
        print(f"wrote {write_json(KEPT, kept)}")
    except (DcacheError, OSError, ValueError) as error:
        print(f"measure_search: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
