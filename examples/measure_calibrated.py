"""Measure `dcache calibrate` (auto) on the three demo settings, and write its table into docs/calibrate.md.

    python examples/measure_calibrated.py                           # hours of one core; goes on after a kill
    python examples/measure_calibrated.py --only video --computes 9  # one calibration
    python examples/measure_calibrated.py --draw-only               # the table again, from calibrated.json

The number of computed evaluations is given, and not taken from measured seconds, so that no figure depends on
the machine. The schedules are measured on the captions of `measure_tuned.py`, whose presets they are compared
with.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measure_methods import fill
from measure_tuned import CAPTIONS, DOCS, SETTINGS, quality

import dcache
from dcache.errors import DcacheWarning
from dcache.eval.prompts import digest, read
from dcache.schedule import Schedule
from dcache.search.fitting.latency_model import observe
from dcache.search.fitting.placement import even_places, front_loaded_places
from dcache.search.fitting.places import Found, Search
from dcache.search.fitting.starts import observed_starts
from dcache.search.rendering.render import Renderer
from dcache.search.rendering.results import Results, resumable
from dcache.util.files import make_folder, write_json

# Setting -> computed evaluations of 20 for 2x, 2.5x and 3x by FLOPs.
COMPUTES = {"guidance": (9, 7, 5), "none": (9, 6, 5), "video": (9, 7, 6)}
SEED = 7


def search(name: str, computes: int, prompts: Sequence[str], budget: int, results: Results) -> Found:
    """The search of `calibrate`, for a number of computed evaluations."""
    subject = SETTINGS[name].subject()
    cut = len(prompts) // 3
    target = observe(subject, prompts[0], SEED)
    fitting = Renderer(subject, prompts[cut:], SEED + cut, results=results, part="fitting")
    checking = Renderer(subject, prompts[:cut], SEED, results=results, part="checking")
    places = [make(computes, target.steps) for make in (even_places, front_loaded_places)]
    starts, slopes = observed_starts(subject, target, computes, prompts[cut], SEED + cut, results)
    return Search(target, fitting, checking, budget, random.Random(SEED), slopes).best_of(places, starts)


def calibrated(name: str, computes: int, prompts: int, budget: int, folder: Path) -> tuple[Schedule, float]:
    """The schedule, from its file if there is one, and its PSNR in dB on the checking prompts."""
    file = folder / f"{name}-{computes}.schedule.json"
    if not file.exists():
        texts = read(f"{SETTINGS[name].source}-train:{prompts}")
        about = {"name": name, "computes": computes, "prompts": digest(texts), "budget": budget}
        with resumable(file, about) as results:
            found = search(name, computes, texts, budget, results)
            dcache.Schedule.save(found.schedule, file)
            write_json(file.with_suffix(".checked"), {"placed": found.placed, "fitted": found.fitted})
    checked = json.loads(file.with_suffix(".checked").read_text(encoding="utf-8"))
    return Schedule.load(file), checked["fitted"]


def measured(name: str, schedule: Schedule) -> list[float]:
    """PSNR in dB of each held-out picture."""
    subject = SETTINGS[name].subject()
    captions = read(f"{SETTINGS[name].source}:{CAPTIONS}")
    reference = subject(captions, range(500, 500 + len(captions)))
    with dcache.enabled(subject.pipe, schedule):
        return quality(subject, reference, captions)


def lines(figures: dict[str, Any], others: dict[str, Any]) -> list[str]:
    """The table in Markdown; `others` are the figures of `measure_tuned.py`."""
    table = [
        "| setting | computed | FLOPs | calibrated | worst picture | best preset of equal work | ahead |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, counts in COMPUTES.items():
        rows = others[name]["rows"]
        for computed in counts:
            row = figures[f"{name} {computed}"]
            ours = float(np.mean(row["psnr"]))
            best, preset = max(_means([other for other in rows if other["computed"] == computed]))
            speedup = next(other["speedup"] for other in rows if other.get("computed") == computed)
            cells = [SETTINGS[name].title, str(computed), f"{speedup:.2f}x", f"**{ours:.1f}**"]
            cells += [f"{min(row['psnr']):.0f}", f"{best:.1f} `{preset}`", f"{ours - best:+.1f} dB"]
            table.append("| " + " | ".join(cells) + " |")
    return table


def _means(rows: Sequence[dict[str, Any]]) -> list[tuple[float, str]]:
    """PSNR and name of every preset; that of `tuned` is the mean over the prompts that it was observed on."""
    planned = [float(np.mean(row["psnr"])) for row in rows if row["source"].startswith("prompt ")]
    named = [row for row in rows if "asked" not in row]
    return [
        (float(np.mean(planned)), "tuned"),
        *((float(np.mean(row["psnr"])), row["source"].partition("(")[0]) for row in named),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=list(SETTINGS), help="one setting")
    parser.add_argument("--computes", type=int, help="one number of computed evaluations")
    parser.add_argument("--prompts", type=int, default=24, help="to fit and check on (default: 24)")
    parser.add_argument("--budget", type=int, default=60, help="sets of places to try (default: 60)")
    parser.add_argument("--folder", type=Path, default=Path("calibrated"), help="schedules, and what resumes")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder whose page is written")
    parser.add_argument("--draw-only", action="store_true", help="measure nothing")
    options = parser.parse_args()
    file = options.docs / "calibrated.json"
    figures = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    warnings.simplefilter("ignore", DcacheWarning)
    for name in [] if options.draw_only else [options.only] if options.only else SETTINGS:
        for computed in [options.computes] if options.computes else COMPUTES[name]:
            folder = make_folder(options.folder)
            schedule, checked = calibrated(name, computed, options.prompts, options.budget, folder)
            values = measured(name, schedule)
            given = {"prompts": options.prompts, "budget": options.budget, "checked": checked}
            figures[f"{name} {computed}"] = given | {"method": schedule.method, "psnr": values}
            print(f"{name}, {computed} computed: {np.mean(values):.1f} dB, checked {checked:.1f}", flush=True)
            write_json(file, figures)
    if {f"{name} {k}" for name, counts in COMPUTES.items() for k in counts} <= set(figures):
        others = json.loads((options.docs / "tuned.json").read_text(encoding="utf-8"))
        fill(options.docs / "calibrate.md", "\n".join(lines(figures, others)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
