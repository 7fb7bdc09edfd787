"""The tables and the plot of docs/search.md, from the figures of `measure_search.py`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from search_runs import ALIKE, CONTESTS, GUIDANCES, LEEWAY, SPEEDUPS

from dcache.demo.pipeline import GUIDANCE
from dcache.eval.canvas import ACCENT, GREY, GRID, INK, new_figure, save

COLOURS = ("#9ca3af", "#d97706", "#16a34a", ACCENT, "#9333ea")


def chosen(rows: Sequence[dict[str, Any]], kind: str, by: str) -> dict[str, Any] | None:
    """The best row of a kind, by the figure that is shown."""
    candidates = [r for r in rows if r["kind"] == kind and r.get(by) is not None]
    return max(candidates, key=lambda r: float(r[by]), default=None)


def of_front(rows: Sequence[dict[str, Any]], speedup: float) -> dict[str, Any]:
    """The front's schedule for a speedup."""
    fast = [r for r in rows if r["kind"] == "front" and r["expected"] >= LEEWAY * speedup]
    return max(fast, key=lambda r: float(r["searched"]))


def lines(figures: dict[str, Any]) -> list[str]:
    """The tables in Markdown, each with a line of explanation."""
    hardware, software = figures["machine"], figures["versions"]
    return [
        f"{hardware['processor']}, {hardware['threads']} thread(s), torch {software['torch']}, diffusers "
        f"{software['diffusers']}, float32.",
        "",
        "The best of each kind with as little work as the front's schedule for 2x, 3x and 4x (share of an "
        f"uncached call's FLOPs, within {ALIKE - 1:.0%}), eight held-out captions, PSNR. The front's "
        "is chosen by what was searched, the others by the very figure that is shown:",
        "",
        *_rival_lines(figures["rivals"]),
        "",
        f"The best that are expected to be as fast by the profile's seconds (within {ALIKE - 1:.0%}), 32 "
        "held-out captions:",
        "",
        *_held_lines(figures["rivals"]),
        "",
        f"Equal budgets: {figures['strategies']['budget']} evaluations on the first four prompts; "
        f"hypervolume, means over {len(figures['strategies']['on']['random'])} seeds of the strategy's "
        "decisions, and the best PSNR at each speedup:",
        "",
        *_strategy_lines(figures["strategies"]),
        "",
        "Elsewhere than where they were searched, 16 held-out captions, PSNR in dB of the front's schedule "
        "and of as many even computes (half of the line):",
        "",
        *_transfer_lines(figures["transfer"]),
    ]


def _held_lines(figures: dict[str, Any]) -> list[str]:
    kinds = {"calibrated": "`auto`", "planner": "best planner"}
    table = ["| guidance | expected | front | " + " | ".join(kinds.values()) + " |", "|---|---|---|---|---|"]
    for mode in GUIDANCES:
        rows = figures[mode]["rows"]
        for speedup in SPEEDUPS:
            front = of_front(rows, speedup)
            fast = [r for r in rows if (r.get("expected") or 0.0) >= front["expected"] / ALIKE]
            cells = [
                f"{front['held']:.1f} dB",
                *(_cell(chosen(fast, kind, "held"), "held") for kind in kinds),
            ]
            table.append(f"| {mode} | {front['expected']:.2f}x | " + " | ".join(cells) + " |")
    return table


def _rival_lines(figures: dict[str, Any]) -> list[str]:
    kinds = {
        "calibrated": "`auto`",
        "planner": "best planner",
        "preset": "best preset",
        "peer": "best peer",
    }
    heads = ["guidance", "work", "front", *kinds.values()]
    table = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for mode in GUIDANCES:
        rows = figures[mode]["rows"]
        for speedup in SPEEDUPS:
            front = of_front(rows, speedup)
            little = [r for r in rows if r["flops"] and r["flops"] <= front["flops"] * ALIKE]
            cells = [
                f"{front['psnr']:.1f} dB",
                *(_cell(chosen(little, kind, "psnr"), "psnr") for kind in kinds),
            ]
            share = f"{front['flops']:.0%}".replace("%", " %")
            table.append(f"| {mode} | {share} | " + " | ".join(cells) + " |")
    return table


def _cell(row: dict[str, Any] | None, by: str) -> str:
    if row is None:
        return "–"
    return f"{row[by]:.1f} dB" + ("" if row["kind"] == "calibrated" else f" ({row['label']})")


def _strategy_lines(figures: dict[str, Any]) -> list[str]:
    heads = ["strategy", *(f"{m}: {h}" for m in GUIDANCES for h in ("hypervolume", "2x", "3x", "4x"))]
    table = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name in CONTESTS:
        cells = [name]
        for mode in GUIDANCES:
            runs = figures[mode][name]
            volumes = [run["hypervolume"][-1] for run in runs]
            cells.append(f"{statistics.mean(volumes):.2f} ({min(volumes):.2f} to {max(volumes):.2f})")
            for speedup in SPEEDUPS:
                values = [run["best"][f"{speedup:g}"] for run in runs]
                known = [v for v in values if v is not None]
                cells.append(f"{statistics.mean(known):.1f}" if known else "–")
        table.append("| " + " | ".join(cells) + " |")
    return table


def _transfer_lines(figures: list[dict[str, Any]]) -> list[str]:
    heads = ["guidance", "where", *(f"{s:g}x: front / even" for s in SPEEDUPS)]
    table = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in figures:
        cells = [f"{row[f'{s:g}']:.1f} / {row[f'even {s:g}']:.1f}" for s in SPEEDUPS]
        table.append(f"| {row['guidance']} | {row['where']} | " + " | ".join(cells) + " |")
    return table


def draw(path: Path, figures: dict[str, Any]) -> Path:
    """Plot the rivals and the front above, the growth of the hypervolume below; with guidance on the left."""
    figure = new_figure(10.4, 8.0)
    axes = figure.subplots(2, 2)
    markers = {
        "preset": ("s", GREY),
        "peer": ("^", "#d97706"),
        "planner": ("D", "#16a34a"),
        "calibrated": ("*", "#9333ea"),
    }
    for (above, below), mode in zip(axes.T, GUIDANCES, strict=True):
        rows = [r for r in figures["rivals"][mode]["rows"] if r["psnr"] and r["flops"]]
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
        for colour, (name, runs) in zip(COLOURS, figures["strategies"][mode].items(), strict=True):
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
        for axis in (above, below):
            axis.grid(color=GRID, linewidth=0.7)
            axis.set_axisbelow(True)
            axis.legend(frameon=False, fontsize=7)
            for side in ("top", "right"):
                axis.spines[side].set_visible(False)
    figure.tight_layout()
    return save(figure, path)
