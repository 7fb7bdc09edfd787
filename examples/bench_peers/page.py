"""What is shown of the measurements: tables, the page docs/bench.md, its plot, a short table for README."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure_methods import fill
from tables import FIDELITY, SPEED, front, leaders, markdown, verdicts, winners

from dcache.eval.canvas import GREY, GRID, INK, new_figure, save
from dcache.eval.machine import heading
from dcache.util.files import make_folder, write_json

COLOURS = {"dcache": "#1d6fd1", "cache-dit": "#d1601d", "diffusers": "#2f8f4e", "DeepCache": "#8a3fb5"}
MARKERS = dict(zip(COLOURS, "os^D", strict=True))
# The levels of the README's table.
CLOSE, FAST = 35.0, 2.0
MOST_NAMED = 3


def libraries(measurement: dict[str, Any]) -> list[str]:
    """The libraries with an applicable setting in a measurement."""
    there = {setting["library"] for setting in measurement["first_round"]}
    return [library for library in COLOURS if library in there]


def title(measurement: dict[str, Any]) -> str:
    """Model and guidance."""
    guidance = measurement["pipeline"]["guidance"]
    return f"{measurement['title']}, " + (
        f"guidance {guidance:g}" if measurement["guided"] == "on" else "no guidance"
    )


def shown(measurement: dict[str, Any]) -> list[str]:
    """One measurement in Markdown: both tables, the verdict, what was left out."""
    who = libraries(measurement)
    took = Counter(setting["library"] for setting in measurement["first_round"])
    counts = ", ".join(f"{library} {took[library]} of {measurement['entered'][library]}" for library in who)
    seconds, inside = measurement["uncached"]["seconds"], measurement["uncached"]["denoiser_seconds"]
    spread = statistics.median(setting["spread"] for setting in measurement["methods"])
    lines = [
        f"### {title(measurement)}",
        "",
        f"{len(measurement['prompts'])} in one batch, {measurement['pipeline']['steps']} steps, uncached "
        f"{seconds:.2f} s ({inside:.2f} s of it in the denoiser). Settings that apply: {counts}. "
        f"Equal calls differed by {spread:.0%} (median over settings, slowest to fastest). "
        + firsts(measurement),
        "",
        *markdown(measurement["methods"], who, FIDELITY),
        "",
        *markdown(measurement["methods"], who, SPEED),
        "",
        *sentences(measurement),
    ]
    if measurement["left_out"]:
        lines += ["", "Left out:", "", *reasons(measurement["left_out"])]
    return lines


def firsts(measurement: dict[str, Any]) -> str:
    """What the first call after enabling takes of the second one, which is timed."""
    ratios: dict[str, list[float]] = {}
    for setting in measurement["methods"]:
        if setting.get("first_seconds"):
            ratios.setdefault(setting["library"], []).append(setting["first_seconds"] / setting["seconds"])
    shown = ", ".join(f"{name} {statistics.median(ratios[name]):.2f}" for name in COLOURS if name in ratios)
    return (
        f"Second calls are timed; the first call after enabling took, of the second: {shown}."
        if shown
        else ""
    )


def sentences(measurement: dict[str, Any]) -> list[str]:
    """Where dcache is ahead, level and behind."""
    if "dcache" not in libraries(measurement) or len(libraries(measurement)) == 1:
        return []
    verdict = verdicts(measurement["methods"])
    rows = sum(map(len, verdict.values()))
    lines = [f"dcache is ahead in {len(verdict['ahead'])} of {rows} rows, level in {len(verdict['level'])}."]
    if verdict["behind"]:
        lines += ["", "Where another library wins:", "", *(f"- {text}" for text in verdict["behind"])]
    return lines


def reasons(left_out: Sequence[dict[str, str]]) -> list[str]:
    """One line for each library and reason."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for setting in left_out:
        by_reason.setdefault((setting["library"], setting["why"]), []).append(setting["label"])
    lines = []
    for (library, why), labels in by_reason.items():
        more = f" and {len(labels) - MOST_NAMED} more" if len(labels) > MOST_NAMED else ""
        lines.append(f"- {library}: {', '.join(labels[:MOST_NAMED])}{more}: {why}")
    return lines


def short_table(measurements: Sequence[dict[str, Any]]) -> list[str]:
    """For the README: a row for each measurement, the fastest at one fidelity, the closest at one speed."""
    who = [
        library
        for library in COLOURS
        if any(library in libraries(measurement) for measurement in measurements)
    ]
    heads = [f"{library}: speed at {CLOSE:g} dB, dB at {FAST:g}x" for library in who]
    lines = [f"| model | {' | '.join(heads)} |", "|---" * (len(who) + 1) + "|"]
    for measurement in measurements:
        close, fast = (winners(measurement["methods"], *at) for at in ((FIDELITY, CLOSE), (SPEED, FAST)))
        first, closest = leaders(close, FIDELITY), leaders(fast, SPEED)
        cells = []
        for library in who:
            speed = f"{close[library]['speedup']:.2f}x" if library in close else "–"
            decibels = f"{fast[library]['mean_psnr']:.1f}" if library in fast else "–"
            speed = f"**{speed}**" if library in first else speed
            cells.append(f"{speed}, " + (f"**{decibels}**" if library in closest else decibels))
        lines.append(f"| {title(measurement)} | {' | '.join(cells)} |")
    return lines


def conditions(first: dict[str, Any]) -> str:
    """Machine, versions and how it was timed."""
    peers = ", ".join(f"{name} {first['versions'][name]}" for name in ("cache-dit", "DeepCache"))
    final = first["asked"]["final_repeats"]
    machine = heading(first["machine"], first["versions"])
    clock = (
        "seconds of CPU of one thread, for the machine had other work" if first["asked"].get("cpu") else ""
    )
    calls = f"{final} calls of each in turns, medians"
    return f"{machine}, {peers}; float32, {', '.join(filter(None, (calls, clock)))}."


def write_page(measurements: Sequence[dict[str, Any]], docs: Path) -> list[Path]:
    """Write bench.json, the plot, the tables of bench.md between its markers; print the README's table."""
    page, pictures = docs / "bench.md", make_folder(docs / "pictures")
    short = short_table(measurements)
    where = [conditions(measurement) for measurement in measurements]
    alike = len(set(where)) == 1
    text = [*([where[0], ""] if alike else []), *short, ""]
    for line, measurement in zip(where, measurements, strict=True):
        heading, blank, *rest = shown(measurement)
        text += [heading, blank, *([] if alike else [line, ""]), *rest, ""]
    text.append("All settings, with FLOPs, bytes held and SSIM, are in [bench.json](bench.json).")
    fill(page, "\n".join(text))
    print("\n".join(["for the README:", "", *short]))
    return [
        page,
        write_json(docs / "bench.json", {"measured": list(measurements)}),
        draw(pictures / "bench.png", measurements),
    ]


def draw(path: Path, measurements: Sequence[dict[str, Any]]) -> Path:
    """Speedup against PSNR: a panel for each measurement, a colour for each library, its best joined."""
    columns = min(2, len(measurements))
    rows = -(-len(measurements) // columns)
    figure = new_figure(5.2 * columns, 3.6 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    # Measurements first: with panels first, zip would consume one panel too many.
    for measurement, axes in zip(measurements, panels, strict=False):
        panel(axes, measurement)
    for axes in list(panels):
        axes.set_visible(False)
    who = [
        library
        for library in COLOURS
        if any(library in libraries(measurement) for measurement in measurements)
    ]
    handles = [
        figure.axes[0].plot([], [], MARKERS[library], color=COLOURS[library], label=library)[0]
        for library in who
    ]
    figure.legend(handles, who, loc="upper center", ncols=len(who), frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.4 / figure.get_figheight()))
    return save(figure, path)


def panel(axes: Any, measurement: dict[str, Any]) -> None:
    """Every setting of the second round as a faint point, the best of each library as a line."""
    best = front(measurement["methods"], slack=1.0)
    for library in libraries(measurement):
        colour, marker = COLOURS[library], MARKERS[library]
        style = {"color": colour, "markersize": 4.5, "markeredgewidth": 0}
        axes.plot(*points(measurement["methods"], library), marker, alpha=0.25, **style)
        axes.plot(*points(best, library), f"-{marker}", linewidth=1.2, **style)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_title(title(measurement), size=10, color=GREY, loc="left")
    axes.set_xlabel("speedup of the whole pipeline call (×)", color=INK)
    axes.set_ylabel("PSNR to the uncached output (dB)", color=INK)


def points(settings: Sequence[dict[str, Any]], library: str) -> tuple[list[float], list[float]]:
    """Speedups and PSNRs of one library's unbroken settings, the slowest first."""
    pairs = sorted(
        (s["speedup"], s["mean_psnr"]) for s in settings if s["library"] == library and s["speedup"]
    )
    return [x for x, _ in pairs], [y for _, y in pairs]
