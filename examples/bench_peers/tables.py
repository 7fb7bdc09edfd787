"""From measured settings to two comparisons: the fastest at equal fidelity, the closest at equal speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Setting = dict[str, Any]
DECIBELS = (30.0, 35.0, 40.0, 45.0)
SPEEDS = (1.5, 2.0, 2.5, 3.0)
# Differences below these are the machine's, or nobody's: speedups by their ratio, PSNR in dB.
EQUAL_SPEED, EQUAL_DECIBELS = 1.02, 0.1
# A setting stays in the final round unless another of its library is as close and this much faster.
SLACK = 1.05
# By how much timings of another day may differ.
DRIFTS = (0.85, 0.92, 1.0, 1.08, 1.15)


@dataclass(frozen=True)
class Comparison:
    """One of the two tables.

    Attributes:
        heading: of the first column.
        level: how a level is written.
        given: what has to reach the level.
        best: what is compared then, higher is better.
        equal: whether two values of it are level.
        cell: how a setting is written.
    """

    heading: str
    levels: Sequence[float]
    level: Callable[[float], str]
    given: str
    best: str
    equal: Callable[[float, float], bool]
    cell: Callable[[Setting], str]


FIDELITY = Comparison(
    "PSNR at least",
    DECIBELS,
    lambda level: f"{level:g} dB",
    "mean_psnr",
    "speedup",
    lambda one, other: max(one, other) < EQUAL_SPEED * min(one, other),
    lambda s: f"{s['speedup']:.2f}x ({s['label']}, {s['mean_psnr']:.1f} dB)",
)
SPEED = Comparison(
    "speedup at least",
    SPEEDS,
    lambda level: f"{level:g}x",
    "speedup",
    "mean_psnr",
    lambda one, other: abs(one - other) < EQUAL_DECIBELS,
    lambda s: f"{s['mean_psnr']:.1f} dB ({s['label']}, {s['speedup']:.2f}x)",
)


def speedup(setting: Setting) -> float:
    """By the clock."""
    return setting["speedup"]


def work_saved(setting: Setting) -> float:
    """By FLOPs, which no busy machine moves."""
    return 1 / setting["flops"]


def front(
    settings: Sequence[Setting], speed: Callable[[Setting], float] = speedup, slack: float = SLACK
) -> list[Setting]:
    """The settings that no other of the same library beats in fidelity and, clearly, in speed.

    >>> fast = {"library": "a", "speedup": 3.0, "mean_psnr": 30.0}
    >>> near = {"library": "a", "speedup": 2.9, "mean_psnr": 30.0}
    >>> slow = {"library": "a", "speedup": 2.0, "mean_psnr": 30.0}
    >>> front([fast, near, slow]) == [fast, near]
    True
    """
    sound = [s for s in settings if s["speedup"] is not None]
    return [
        s
        for s in sound
        if not any(
            o["library"] == s["library"] and o["mean_psnr"] >= s["mean_psnr"] and speed(o) > slack * speed(s)
            for o in sound
        )
    ]


def likely(settings: Sequence[Setting]) -> set[str]:
    """Specifications that win a row for their library where timings are up to 15 % off, or by FLOPs."""
    views = [[{**s, "speedup": s["speedup"] * f} for s in settings if s["speedup"]] for f in DRIFTS]
    views.append([{**s, "speedup": work_saved(s)} for s in settings if s["speedup"]])
    kinds = (FIDELITY, SPEED)
    best = (winners(view, kind, level) for view in views for kind in kinds for level in kind.levels)
    return {setting["spec"] for row in best for setting in row.values()}


def winners(settings: Sequence[Setting], kind: Comparison, level: float) -> dict[str, Setting]:
    """Each library's best setting at a level; libraries that do not reach it are absent."""
    best: dict[str, Setting] = {}
    for s in settings:
        if s["speedup"] is not None and s[kind.given] >= level:
            known = best.get(s["library"])
            if known is None or s[kind.best] > known[kind.best]:
                best[s["library"]] = s
    return best


def leaders(settings: dict[str, Setting], kind: Comparison) -> set[str]:
    """The library with the best setting, and those level with it."""
    best = max((s[kind.best] for s in settings.values()), default=0.0)
    return {
        library for library, s in settings.items() if s[kind.best] == best or kind.equal(s[kind.best], best)
    }


def markdown(settings: Sequence[Setting], libraries: Sequence[str], kind: Comparison) -> list[str]:
    """A table: a row for each level, a column for each library, the leaders in bold."""
    lines = [f"| {kind.heading} | {' | '.join(libraries)} |", "|---" * (len(libraries) + 1) + "|"]
    for level in kind.levels:
        best = winners(settings, kind, level)
        first = leaders(best, kind)
        cells = [cell(best.get(library), kind, bold=library in first) for library in libraries]
        lines.append(f"| {kind.level(level)} | {' | '.join(cells)} |")
    return lines


def cell(setting: Setting | None, kind: Comparison, bold: bool) -> str:
    """One cell; the figure alone is bold."""
    if setting is None:
        return "not reached"
    figure, _, rest = kind.cell(setting).partition(" (")
    return f"**{figure}** ({rest}" if bold else f"{figure} ({rest}"


def verdicts(settings: Sequence[Setting], library: str = "dcache") -> dict[str, list[str]]:
    """Texts of the rows in which a library is ahead, level or behind."""
    rows: dict[str, list[str]] = {"ahead": [], "level": [], "behind": []}
    for kind in (FIDELITY, SPEED):
        for level in kind.levels:
            at = winners(settings, kind, level)
            if not at:
                continue
            first = leaders(at, kind)
            where = f"{kind.heading} {kind.level(level)}"
            if first == {library}:
                rows["ahead"].append(where)
            elif library in first:
                rows["level"].append(f"{where}: with {' and '.join(sorted(first - {library}))}")
            else:
                best = max((at[name] for name in first), key=lambda s: s[kind.best])
                mine = kind.cell(at[library]) if library in at else "not reached"
                rows["behind"].append(f"{where}: {best['library']} {kind.cell(best)}; {library} {mine}")
    return rows
