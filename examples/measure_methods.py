"""Measure every preset on the shipped model, with guidance and without, and write the tables of docs/methods.

    python examples/measure_methods.py                 # ten minutes of two idle cores
    python examples/measure_methods.py --draw-only     # the tables and the plot again, from measured.json
    python examples/measure_methods.py --only bac      # its rows measured anew, beside an uncached pipeline
    python examples/measure_methods.py --only bac --untimed    # the same without speedups, on a busy machine

Eight held-out captions, 20 steps; all methods take turns, the median counts. PSNR, SSIM and the computed
share do not depend on the machine; the speedups do.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from dcache import methods
from dcache.demo.pictures import demo_captions
from dcache.demo.pipeline import GUIDANCE, STEPS, coefficients
from dcache.errors import DcacheError
from dcache.eval.bench import bench
from dcache.eval.canvas import GREY, GRID, INK, new_figure, save
from dcache.eval.entries import run_once
from dcache.eval.formatting import size
from dcache.eval.machine import machine, versions
from dcache.eval.specs import MethodEntry, shipped
from dcache.eval.subject import Subject, load
from dcache.util.files import write, write_json

DOCS = Path(__file__).parent.parent / "docs"
GUIDANCES = {"on": GUIDANCE, "off": 1.0}
CAPTIONS = 8
# Options beside the defaults; {} is the preset as it comes.
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "adaptive": [{}, {"share": 0.35}, {"share": 0.25}],
    "default": [{}],
    "bac": [{}, {"computes": 7}, {"computes": 7, "union": 4}],
    "cachequant": [{"interval": 2}, {"interval": 3}, {}],
    "causal": [{}],
    "dbcache": [
        {},
        {"front": 1, "warmup": 2, "threshold": 0.2},
        {"front": 2, "back": 2, "warmup": 2, "order": 1},
    ],
    "deepcache": [{}],
    "delta_dit": [{}, {"interval": 3}, {"interval": 3, "blocks": 11}],
    "easycache": [{}, {"warmup": 3}, {"warmup": 3, "threshold": 0.15}],
    "ertacache": [{}, {"threshold": 0.2}, {"threshold": 0.1, "timesteps": False}],
    "fastercache": [{}, {"attn_below": 900.0, "guidance_below": 900.0, "guidance_interval": 3}],
    "fbcache": [{}, {"threshold": 0.12}, {"threshold": 0.3}],
    "fitted": [{}, {"interval": 4}, {"speedup": 3.0}],
    "foca": [{"interval": 3}, {"interval": 4}, {}],
    "hicache": [{"interval": 4}, {"interval": 4, "scale": 0.5**0.5}, {}],
    "interval": [{}, {"interval": 4}, {"sites": ["attn", "mlp"]}],
    "magcache": [{}, {"threshold": 0.1, "max_run": 3}, {"threshold": 0.03, "max_run": 2}],
    "newton": [{}, {"interval": 4}, {"order": 2}],
    "pab": [{}, {"mlp": 2}, {"cross_attn": 4, "mlp": 2, "window": (0.0, 950.0)}],
    "policy_default": [{}],
    "profilingdit": [{}, {"t_max": 3}, {"t_max": 4, "t_min": 2}],
    "seacache": [{}, {"threshold": 0.5}, {"order": 0}],
    "sencache": [{"early": 4}, {"early": 4, "early_threshold": 0.2, "threshold": 0.5}, {}],
    "smoothcache": [{"alpha": 0.08}, {"alpha": 0.15}, {"alpha": 0.3}],
    "spectrum": [{}, {"last": True, "steps": 20}, {"blend": 1.0}],
    "taylorseer": [{"interval": 4}, {"interval": 4, "lite": True}, {}],
    "teacache": [{}, {"threshold": 0.4}, {"threshold": 0.8}],
    "tgate": [{}, {"gate": 15, "attn_interval": 3}, {"gate": 15, "attn_interval": 1}],
    "tuned": [{}, {"speedup": 2.5}, {"speedup": 3.0}],
    "yume": [{}, {"share": 0.5}, {"share": 0.5, "interval": 2}],
}


def choice(name: str, options: dict[str, Any]) -> MethodEntry:
    """A preset with options; measured numbers come from the shipped file."""
    label = ", ".join(f"{k}={short(v)}" for k, v in options.items()) or "as it comes"
    given = dict(options)
    given |= shipped(name, coefficients())
    if "alpha" in given:
        tables = json.loads(coefficients().read_text(encoding="utf-8"))["smoothcache"]["tables"]
        given["table"] = tables[f"{given.pop('alpha'):g}"]
    return MethodEntry(f"{name}: {label}", label, method=methods.make(name, **given))


def short(value: Any) -> str:
    """An option's value in a table."""
    return f"{value:.3g}" if isinstance(value, float) else repr(value).replace("'", '"')


def refusal(subject: Subject, prompt: str, entry: MethodEntry) -> str:
    """The reason why a method cannot be used here; "" if it can."""
    try:
        run_once(subject, entry, [prompt], [0])
    except DcacheError as error:
        return str(error).removeprefix(f"{entry.spec}: ")
    return ""


def measured(repeats: int, captions: int, only: set[str], timed: bool = True) -> dict[str, Any]:
    """All figures of the tables; speedups are None where they are not `timed`."""
    texts = [caption.text for caption in demo_captions(captions)]
    names = [n for n in SETTINGS if not only or n in only]
    choices = {(n, i): choice(n, options) for n in names for i, options in enumerate(SETTINGS[n])}
    rows: dict[tuple[str, int], dict[str, Any]] = {
        (n, i): {"method": n, "setting": c.label} for (n, i), c in choices.items()
    }
    began, seconds = time.perf_counter(), {}

    def progress(turn: int, label: str) -> None:
        if label == "uncached":
            spent = time.perf_counter() - began
            print(f"guidance {guidance:g}, round {turn} of {repeats} ({spent:.0f} s)", file=sys.stderr)

    for mode, guidance in GUIDANCES.items():
        subject = load("demo", guidance=guidance, device="cpu")
        refused = {key: refusal(subject, texts[0], entry) for key, entry in choices.items()}
        fitting = {key: entry for key, entry in choices.items() if not refused[key]}
        done = bench(
            subject, list(fitting.values()), texts, repeats=repeats, count_flops=False, progress=progress
        )
        seconds[mode] = done.uncached.median
        for key, why in refused.items():
            if why:
                rows[key][mode] = {"refused": why}
        for key, entry, result in zip(fitting, done.methods, done.rows, strict=True):
            rows[key][mode] = {
                "computed": result.computed,
                "speedup": result.speedup if timed else None,
                "psnr": result.mean_psnr,
                "ssim": result.mean_ssim,
                "held": result.held,
                "predicted": entry.last.stats.predicted if entry.last.stats else 0,
                "warnings": entry.warnings,
            }
    return {
        "captions": captions,
        "steps": STEPS,
        "guidance": GUIDANCES,
        "repeats": repeats,
        "uncached_seconds": seconds if timed else None,
        "machine": machine(),
        "versions": versions(),
        "rows": list(rows.values()),
    }


def merged(before: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """The figures with new rows of some presets; machine and versions of these are listed under `later`."""
    names = {row["method"] for row in measured["rows"]}
    rows = [row for row in before["rows"] if row["method"] not in names] + measured["rows"]
    order = list(SETTINGS)
    about = {key: measured[key] for key in ("uncached_seconds", "machine", "versions")}
    later = [*before.get("later", []), {"presets": sorted(names), **about}]
    return {**before, "rows": sorted(rows, key=lambda row: order.index(row["method"])), "later": later}


def lines(figures: dict[str, Any], name: str = "") -> list[str]:
    """The table in Markdown, of one preset or of all."""
    heads = ["setting", "computed", "speedup", "PSNR", "SSIM", "held"]
    heads += [f"{h}, no guidance" for h in ("computed", "speedup", "PSNR", "SSIM")]
    if not name:
        heads.insert(0, "method")
    table = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in figures["rows"]:
        if name in ("", row["method"]):
            first = [] if name else [f"[{row['method']}]({row['method']}.md)"]
            cells = [*first, row["setting"], *cells_of(row["on"], with_bytes=True), *cells_of(row["off"])]
            table.append("| " + " | ".join(cells) + " |")
    return table


def cells_of(row: dict[str, Any], with_bytes: bool = False) -> list[str]:
    """The figures of one row and guidance."""
    empty = 4 + with_bytes
    if "refused" in row:
        return ["refused", *["–"] * (empty - 1)]
    if not row["predicted"]:
        return ["100 %", "nothing predicted", *["–"] * (empty - 2)]
    if row["psnr"] is None:
        return [f"{row['computed']:.0%}".replace("%", " %"), "broken", *["–"] * (empty - 2)]
    speedup = "not timed" if row["speedup"] is None else f"{row['speedup']:.2f}x"
    cells = [f"{row['computed']:.0%}".replace("%", " %"), speedup]
    cells += [f"{row['psnr']:.1f}", f"{row['ssim']:.3f}"]
    return cells + ([size(row["held"])] if with_bytes else [])


def conditions(figures: dict[str, Any]) -> str:
    """The conditions of the measurement as text."""
    hardware, software = figures["machine"], figures["versions"]
    repeats = figures["repeats"]
    calls = f"medians of {repeats} alternated calls" if repeats > 1 else "one call each after a warm-up"
    guidance = figures["guidance"]["on"]
    text = (
        f"{figures['captions']} held-out captions, {figures['steps']} steps, guidance {guidance:g} and none; "
        "PSNR (dB) and SSIM are to the uncached pictures of the same seeds; speedup is that of the whole "
        f"pipeline call, {calls}. {hardware['processor']}, {hardware['threads']} thread(s), "
        f"torch {software['torch']}, diffusers {software['diffusers']}, float32."
    )
    return textwrap.fill(text, 118, break_on_hyphens=False)


def fill(path: Path, text: str) -> None:
    """Put text between a page's markers.

    Raises:
        DcacheError: the page has no markers.
    """
    page = path.read_text(encoding="utf-8")
    begin, end = "<!-- measured -->", "<!-- /measured -->"
    if begin not in page or end not in page:
        raise DcacheError(f"{path} has no place for measured figures: {begin} ... {end}")
    new = page[: page.index(begin) + len(begin)] + "\n" + text + "\n" + page[page.index(end) :]
    write(path, lambda temporary: temporary.write_text(new, encoding="utf-8"))


def draw(path: Path, figures: dict[str, Any]) -> None:
    """Speedup against PSNR, a colour and marker for each preset, with guidance and without."""
    from matplotlib import colormaps

    figure = new_figure(10.4, 4.6)
    both = figure.subplots(1, 2)
    titles = {"on": f"guidance {figures['guidance']['on']:g}", "off": "no guidance"}
    names = list(dict.fromkeys(row["method"] for row in figures["rows"]))
    for axes, (mode, title) in zip(both, titles.items(), strict=True):
        for i, name in enumerate(names):
            results = [row[mode] for row in figures["rows"] if row["method"] == name]
            points = sorted((r["speedup"], r["psnr"]) for r in results if r.get("psnr") and r["predicted"])
            if points:
                style = {"color": colormaps["tab10"](i % 10), "marker": "osD^vPX*"[i % 8], "markersize": 6}
                axes.plot(*zip(*points, strict=True), label=name, linestyle="none", **style)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.set_title(title, size=10, color=GREY, loc="left")
        axes.set_xlabel("speedup of the whole pipeline call (×)", color=INK)
    both[0].set_ylabel("PSNR to the uncached picture (dB)", color=INK)
    handles, labels = both[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="center right", frameon=False, fontsize=8)
    figure.subplots_adjust(left=0.06, right=0.85, bottom=0.12, top=0.92, wspace=0.14)
    save(figure, path)


def write_docs(figures: dict[str, Any], docs: Path) -> None:
    """Fill the tables of all pages and draw the plot."""
    fill(docs / "methods" / "README.md", "\n".join([conditions(figures), "", *lines(figures)]))
    for name in dict.fromkeys(row["method"] for row in figures["rows"]):
        rows = [row for row in figures["rows"] if row["method"] == name]
        why = {row["on"].get("refused") for row in rows} - {None}
        text = "\n".join(lines(figures, name))
        fill(docs / "methods" / f"{name}.md", "Refused on this model: " + why.pop() if why else text)
    draw(docs / "pictures" / "methods.png", figures)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--captions", type=int, default=CAPTIONS)
    parser.add_argument(
        "--only", action="append", default=[], help="a preset, its rows alone; may be repeated"
    )
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder whose pages are written")
    parser.add_argument("--out", type=Path, help="write the figures to this file and no page")
    parser.add_argument("--untimed", action="store_true", help="one call each, and no speedups")
    parser.add_argument("--draw-only", action="store_true", help="measure nothing")
    options = parser.parse_args()
    file = options.docs / "methods" / "measured.json"
    try:
        if missing := set(methods.available()) - set(SETTINGS):
            raise DcacheError(f"SETTINGS lacks {', '.join(sorted(missing))}")
        if options.draw_only:
            figures = json.loads(file.read_text(encoding="utf-8"))
        else:
            repeats = 1 if options.untimed else options.repeats
            figures = measured(repeats, options.captions, set(options.only), timed=not options.untimed)
        if options.out:
            print(f"wrote {write_json(options.out, figures)}")
            return 0
        if options.only:
            figures = merged(json.loads(file.read_text(encoding="utf-8")), figures)
        write_json(file, figures)
        write_docs(figures, options.docs)
    except (DcacheError, OSError, ValueError) as error:
        print(f"measure_methods: {error}", file=sys.stderr)
        return 1
    print(f"wrote {file}, the pages beside it and {options.docs / 'pictures' / 'methods.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
