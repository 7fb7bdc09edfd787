"""Measure every predictor at the same anchors on three trained models, and write docs/predictors.md.

    python examples/measure_predictors.py                # about half an hour of one core; resumes
    python examples/measure_predictors.py --draw-only    # the table and the plot again, from predictors.json

PSNR to the uncached pictures of held-out captions. What is fitted is fitted on captions that the models were
trained on: weights by the Gram matrix of one observed run; a share of a line, tried at five values on the
pictures; whichever of all these is best there (`chosen`); slopes fitted on the pictures, a third of which
decide whether a step is taken (`pictures`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dcache.demo import pictures
from dcache.demo.video import clips
from dcache.errors import DcacheError
from dcache.eval.machine import machine, versions
from dcache.eval.subject import Subject, load
from dcache.profile import Profile
from dcache.schedule import Schedule
from dcache.schedulers.planners import make, scheduled
from dcache.schedulers.planners.gram import line_slopes, slopes
from dcache.schedulers.planners.pairs import clock_values, plan_terms
from dcache.search.fitting.closed_loop import fit, with_slopes
from dcache.search.fitting.placement import even_places
from dcache.search.observe import observe
from dcache.search.rendering.render import Renderer
from dcache.util.files import write, write_json

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
UNET = ROOT / "examples" / "bench_peers" / "unet" / "model"
MODELS: dict[str, tuple[str, Any, dict[str, Any], tuple[int, ...]]] = {
    "PixArt": ("demo", pictures, {}, (20, 12, 30)),
    "UNet": (str(UNET), pictures, {"height": 64, "width": 64}, (20,)),
    "Wan": ("demo-video", clips, {}, (20,)),
}
GUIDANCES = (3.0, 1.0)
FITTING, HELD_OUT = 6, 4
# Where the first pictures of each kind start: no two share their noise.
HELD_SEED, FIT_SEED = 0, 100
BY_HAND = {20: (0, 1, 2, 6, 10, 14, 18), 12: (0, 1, 4, 7, 10), 30: (0, 1, 2, 7, 12, 17, 22, 27)}
PLACES = ("even", "by hand", "planned")
EVEN = {12: 4, 20: 5, 30: 7}
FIXED: dict[str, dict[str, Any]] = {
    "reuse": {"predictor": "reuse", "clock": "step"},
    "newton 1": {"predictor": "newton", "parameters": {"order": 1}, "clock": "logsnr"},
    "newton 2": {"predictor": "newton", "parameters": {"order": 2}, "clock": "logsnr"},
    "taylor 1": {"predictor": "taylor", "parameters": {"order": 1}, "clock": "step"},
    "taylor 2": {"predictor": "taylor", "parameters": {"order": 2}, "clock": "step"},
    "linear": {"predictor": "linear", "clock": "step"},
    "hermite 1": {"predictor": "hermite", "parameters": {"order": 1}, "clock": "step"},
    "foca": {"predictor": "foca", "clock": "step"},
}
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
OURS = ("fitted 2", "fitted 3", "share of fitted", "share of newton 1", "chosen", "pictures")
NAMES = (*FIXED, *OURS)
Key = tuple[str, float, int, str]


def places(profile: Profile, kind: str) -> tuple[int, ...]:
    """Computed evaluations: even, placed by hand, or planned by `pairs` for as many as even ones."""
    steps = profile.steps
    if kind == "even":
        return even_places(EVEN[steps], steps)
    if kind == "by hand":
        return BY_HAND[steps]
    (plan,) = make("pairs", profile, computes=EVEN[steps]).components.values()
    return tuple(t for t, computed in enumerate(plan.rows["*"][profile.whole_site]) if computed)


def without_pictures(profile: Profile, anchors: tuple[int, ...]) -> dict[str, Schedule]:
    """Every predictor that needs no picture to be set up."""
    plans = dict(FIXED)
    for order in (1, 2):
        plans[f"fitted {order + 1}"] = plan_terms(profile, {profile.whole_site: anchors}, "fitted", order)
    return {
        name: scheduled(profile, "measured", {profile.whole_site: anchors}, **plan)
        for name, plan in plans.items()
    }


def along(profile: Profile, anchors: tuple[int, ...], name: str, share: float) -> dict[int, float]:
    """Slopes of the predicted evaluations: a share of the fitted ones, or of the line on log-SNR."""
    gram = profile.tables(profile.whole_site).gram
    table = slopes(gram) if name == "fitted" else line_slopes(clock_values(profile)[1])
    pairs = {t: [a for a in anchors if a < t][-2:] for t in range(profile.steps) if t not in anchors}
    return {t: share * float(table[a[0], a[1], t]) for t, a in pairs.items() if len(a) > 1}


def one(
    profile: Profile, anchors: tuple[int, ...], held_out: Renderer, seen: Renderer, checking: Renderer
) -> dict[str, Any]:
    """The PSNR of every predictor at these anchors, and the chosen shares of the line."""
    plans = without_pictures(profile, anchors)
    bare, psnr, shares = plans["reuse"], {name: held_out.quality(plan) for name, plan in plans.items()}, {}
    for name in ("fitted", "newton 1"):
        tried = {s: seen.quality(with_slopes(bare, along(profile, anchors, name, s))) for s in SHARES}
        shares[name] = max(SHARES, key=tried.__getitem__)
        psnr[f"share of {name}"] = held_out.quality(
            with_slopes(bare, along(profile, anchors, name, shares[name]))
        )
    start = along(profile, anchors, "newton 1", shares["newton 1"])
    psnr["pictures"] = held_out.quality(fit(bare, seen, checking, start, iterations=1).schedule)
    return {"anchors": anchors, "psnr": psnr, "shares": shares}


def chosen(profile: Profile, row: dict[str, Any], seen: Renderer) -> str:
    """Of the row's predictors but the last, the one with the best pictures on the captions fitted on."""
    anchors = tuple(row["anchors"])
    plans = without_pictures(profile, anchors)
    for name, share in row["shares"].items():
        plans[f"share of {name}"] = with_slopes(plans["reuse"], along(profile, anchors, name, share))
    return max(plans, key=lambda name: seen.quality(plans[name]))


def grid(only: Iterable[str]) -> Iterable[Key]:
    """The measurements to make, the most informative first."""
    for count in BY_HAND:
        for model, (_, _, _, steps) in MODELS.items():
            for guidance in GUIDANCES if count in steps and (not only or model in only) else ():
                for kind in PLACES if (model, count) == ("PixArt", 20) else PLACES[:2]:
                    yield model, guidance, count, kind


def subject_of(model: str, guidance: float, steps: int) -> tuple[Subject, list[str], list[str]]:
    """A pipeline on the CPU in float32, captions it was trained on, and others."""
    name, world, options, _ = MODELS[model]
    subject = load(name, steps=steps, guidance=guidance, dtype="float32", device="cpu", options=options)
    known = world.sample_captions(FITTING, np.random.default_rng(1), unseen=False)
    return subject, [c.text for c in known], [c.text for c in world.demo_captions(HELD_OUT)]


def measure(file: Path, only: Iterable[str], minutes: float) -> dict[str, Any]:
    """Measure what is not in the file yet, within a time limit; the file is written after each row."""
    figures = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": []}
    figures |= {"fitting": FITTING, "held_out": HELD_OUT, "machine": machine(), "versions": versions()}
    done = {(r["model"], r["guidance"], r["steps"], r["places"]): r for r in figures["rows"]}
    began, before = time.perf_counter(), None
    for key in grid(only):
        row = done.get(key, {})
        if "chosen" in row:
            continue
        if time.perf_counter() - began > 60 * minutes:
            print("out of time: run again to continue", file=sys.stderr)
            break
        model, guidance, steps, kind = key
        if key[:3] != before:
            before = key[:3]
            subject, known, others = subject_of(*before)
            profile = observe(subject, known, sites=["auto"], seed=FIT_SEED, batch_size=FITTING, timing=False)
            cut = FITTING // 3
            held_out, seen = (
                Renderer(subject, others, HELD_SEED),
                Renderer(subject, known[cut:], FIT_SEED + cut),
            )
            checking = Renderer(subject, known[:cut], FIT_SEED)
        if not row:
            row = {"model": model, "guidance": guidance, "steps": steps, "places": kind}
            row |= one(profile, places(profile, kind), held_out, seen, checking)
            figures["rows"].append(row)
        row["chosen"] = chosen(profile, row, seen)
        row["psnr"]["chosen"] = row["psnr"][row["chosen"]]
        row["psnr"] = {name: round(row["psnr"][name], 2) for name in NAMES}
        write_json(file, figures)
        spent = time.perf_counter() - began
        print(
            f"{model}, guidance {guidance:g}, {steps} steps, {kind} ({spent:.0f} s)",
            file=sys.stderr,
            flush=True,
        )
    return figures


def lines(figures: dict[str, Any]) -> list[str]:
    """The table in Markdown; the best of each row in bold."""
    heads = ["model", "guidance", "steps", "computed", *NAMES]
    table = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in sorted(figures["rows"], key=lambda r: (r["model"], r["steps"], -r["guidance"], r["places"])):
        psnr = row["psnr"]
        best = max(psnr.values())
        cells = [f"**{psnr[n]:.1f}**" if psnr[n] == best else f"{psnr[n]:.1f}" for n in NAMES]
        guidance = f"{row['guidance']:g}" if row["guidance"] > 1 else "none"
        where = f"{row['places']}: " + " ".join(map(str, row["anchors"]))
        table.append("| " + " | ".join([row["model"], guidance, str(row["steps"]), where, *cells]) + " |")
    return table


def summary(figures: dict[str, Any]) -> list[str]:
    """Each predictor against `newton 1` in the same row: median, worst and best difference."""
    table = [
        "| predictor | guidance 3: median (worst to best) | none: median (worst to best) |",
        "|---|---|---|",
    ]
    for name in NAMES:
        cells = []
        for guided in (True, False):
            differences = gains(figures, name, guided)
            cells.append(
                f"{statistics.median(differences):+.1f} ({min(differences):+.1f} to {max(differences):+.1f})"
                if differences
                else "–"
            )
        table.append("| " + " | ".join([name, *cells]) + " |")
    return table


def gains(figures: dict[str, Any], name: str, guided: bool) -> list[float]:
    """Differences in dB to `newton 1` in the same row."""
    rows = [row for row in figures["rows"] if (row["guidance"] > 1) is guided]
    return [row["psnr"][name] - row["psnr"]["newton 1"] for row in rows]


def draw(path: Path, figures: dict[str, Any]) -> None:
    """A dot for each row: how much better or worse than `newton 1` each predictor is."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 4.4), dpi=120)
    FigureCanvasAgg(figure)
    both = figure.subplots(1, 2, sharey=True)
    names = [name for name in NAMES if name != "newton 1"][::-1]
    for axes, guided in zip(both, (True, False), strict=True):
        axes.axvline(0, color="#6b7280", linewidth=1)
        for style, model in zip("osD", MODELS, strict=True):
            rows = {"rows": [row for row in figures["rows"] if row["model"] == model]}
            points = [(gain, i) for i, name in enumerate(names) for gain in gains(rows, name, guided)]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=model, markersize=5, alpha=0.6)
        axes.set_yticks(range(len(names)), names)
        axes.set_title("guidance 3" if guided else "no guidance", size=10, loc="left")
        axes.set_xlabel("PSNR beyond newton 1 on log-SNR (dB)")
        axes.grid(color="#e5e7eb", linewidth=0.7)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    both[1].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    write(path, lambda temporary: figure.savefig(temporary, dpi=120, facecolor="white"))


def write_docs(figures: dict[str, Any], docs: Path) -> None:
    """Fill the page's tables and draw the plot.

    Raises:
        DcacheError: the page has no markers.
    """
    path = docs / "predictors.md"
    page = path.read_text(encoding="utf-8")
    begin, end = "<!-- measured -->", "<!-- /measured -->"
    if begin not in page or end not in page:
        raise DcacheError(f"{path} has no place for measured figures: {begin} ... {end}")
    head, tail = page[: page.index(begin) + len(begin)], page[page.index(end) :]
    new = "\n".join([head, *summary(figures), "", *lines(figures), tail])
    write(path, lambda temporary: temporary.write_text(new, encoding="utf-8"))
    draw(docs / "pictures" / "predictors.png", figures)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder whose page is written")
    parser.add_argument("--only", action="append", default=[], choices=list(MODELS), help="a model")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin nothing new after these")
    parser.add_argument("--draw-only", action="store_true", help="measure nothing")
    options = parser.parse_args()
    file = options.docs / "predictors.json"
    try:
        if options.draw_only:
            figures = json.loads(file.read_text(encoding="utf-8"))
        else:
            figures = measure(file, options.only, options.minutes)
        write_docs(figures, options.docs)
    except (DcacheError, OSError, ValueError) as error:
        print(f"measure_predictors: {error}", file=sys.stderr)
        return 1
    print(f"wrote {file}, the page and the plot")
    return 0


if __name__ == "__main__":
    sys.exit(main())
