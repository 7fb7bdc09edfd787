"""Drawings of a schedule: sites with equal rows joined, and a plot of steps x sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcache.eval.canvas import ACCENT, FAINT, GREY, INK, new_figure, save
from dcache.schedule import Plan, Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COMPUTED, PREDICTED = ACCENT, FAINT
# Inches: height of a row, space above and below a panel's rows, width of the figure, width of a letter.
ROW, ABOVE, BELOW, WIDTH, LETTER = 0.17, 0.42, 0.3, 9.0, 0.068
# With more rows or steps than these, cells are drawn without gaps between them.
MOST_APART = 100
# Characters of a strip's name.
LONGEST = 40


@dataclass(frozen=True)
class Strip:
    """Sites that are computed at the same evaluations.

    Attributes:
        name: the sites, ranges of depths joined.
        cells: one bool per evaluation; True is computed.
    """

    name: str
    cells: tuple[bool, ...]

    @property
    def share(self) -> float:
        """The computed share of the evaluations."""
        return sum(self.cells) / len(self.cells)


@dataclass(frozen=True)
class Panel:
    """The rows of one denoiser, for all guidance branches with equal rows.

    Attributes:
        component, model: name of the denoiser in the pipeline, and its class; "" if unknown.
        branches: names of the guidance branches; `*` is all.
        predictor: predictor with its parameters, as text.
        strips: the rows.
    """

    component: str
    model: str
    branches: tuple[str, ...]
    predictor: str
    strips: tuple[Strip, ...]

    @property
    def denoiser(self) -> str:
        """Name and class of the denoiser."""
        return f"{self.component or 'denoiser'} {self.model}".rstrip()

    @property
    def branch(self) -> str:
        """The branches as text; "" if the panel is for all branches."""
        if self.branches == ("*",):
            return ""
        return f"{'branch' if len(self.branches) == 1 else 'branches'} {', '.join(self.branches)}"


def panels(schedule: Schedule) -> list[Panel]:
    """The panels of a schedule, denoiser by denoiser."""
    return [panel for name, plan in schedule.components.items() for panel in _panels(name, plan)]


def computed_share(plan: Plan) -> str:
    """Text with the computed share of a denoiser's (evaluation, branch, site) events."""
    events = sum(len(row) for rows in plan.rows.values() for row in rows.values())
    return f"computed {plan.computed} of {events} ({plan.computed / events:.0%})"


def weight_lines(plan: Plan) -> list[list[str]]:
    """A denoiser's tables of weights as rows of text: table, site, evaluation, weights by anchor.

    `weights` are those of the mean and `apart` those of the difference of the halves of a guided batch, where
    both are given. Site `*` is every site.
    """
    return [
        [name, site, str(t), "  ".join(f"{w:+.3f} of {a}" for a, w in sorted(weights.items(), key=_number))]
        for name, table in plan.parameters.items()
        if isinstance(table, Mapping)
        for site, rows in table.items()
        for t, weights in rows.items()
    ]


def _number(item: tuple[Any, float]) -> int:
    return int(item[0])


def heading(schedule: Schedule) -> str:
    """One line with method, evaluations, sampler, guidance and resolution of a schedule."""
    parts = [f"{schedule.method or 'schedule'}: {schedule.steps} evaluations"]
    parts += [schedule.sampler] if schedule.sampler else []
    guidance = schedule.guidance
    # An int may be too large for a float format.
    number = f"{guidance:g}" if isinstance(guidance, float) else str(guidance)
    parts += [f"guidance {number}"] if guidance is not None else []
    parts += ["x".join(map(str, schedule.resolution))] if schedule.resolution else []
    return ", ".join(parts)


def draw_schedule(path: Path, schedule: Schedule) -> Path:
    """Draw a schedule as a PNG: one row per strip, one column per evaluation, filled where computed.

    Raises:
        DcacheError: the file cannot be written.
    """
    tables = panels(schedule)
    heights = [ABOVE + len(table.strips) * ROW + BELOW for table in tables]
    height = 0.5 + sum(heights)
    figure = new_figure(WIDTH, height)
    figure.text(0.2 / WIDTH, 1 - 0.3 / height, heading(schedule), size=11, weight="bold", color=INK)
    for text, colour, x in (("computed", COMPUTED, WIDTH - 2.2), ("predicted", PREDICTED, WIDTH - 1.2)):
        figure.text(x / WIDTH, 1 - 0.3 / height, "■", size=11, color=colour)
        figure.text((x + 0.18) / WIDTH, 1 - 0.29 / height, text, size=8.5, color=GREY)
    left = 0.4 + LETTER * max(len(strip.name) for table in tables for strip in table.strips)
    top = height - 0.5
    for table, tall in zip(tables, heights, strict=True):
        box = (left / WIDTH, (top - tall + BELOW) / height, (WIDTH - left - 0.6) / WIDTH)
        _draw_panel(figure.add_axes((*box, (tall - ABOVE - BELOW) / height)), table)
        top -= tall
    return save(figure, path)


def _draw_panel(axes: Axes, table: Panel) -> None:
    from matplotlib.colors import ListedColormap

    rows, steps = len(table.strips), len(table.strips[0].cells)
    cells = [[int(cell) for cell in strip.cells] for strip in table.strips]
    gap = 0.8 if max(rows, steps) <= MOST_APART else 0.0
    colours = ListedColormap([PREDICTED, COMPUTED])
    axes.pcolormesh(cells, cmap=colours, vmin=0, vmax=1, edgecolors="white", linewidth=gap)
    axes.invert_yaxis()
    axes.set_yticks([i + 0.5 for i in range(rows)], [strip.name for strip in table.strips], size=8, color=INK)
    ticks = range(
        0, steps, next(n for n in (1, 2, 5, 10, 20, 50, 100, steps) if steps / n <= 25 or n == steps)
    )
    axes.set_xticks([i + 0.5 for i in ticks], [str(i) for i in ticks], size=7.5, color=GREY)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    title = ", ".join(
        part for part in (table.denoiser, table.branch, f"predicted by {table.predictor}") if part
    )
    axes.set_title(title, size=8.5, color=GREY, loc="left")
    for i, strip in enumerate(table.strips):
        axes.text(steps, i + 0.5, f" {strip.share:.0%}", size=8, color=INK, va="center")


def _panels(name: str, plan: Plan) -> list[Panel]:
    alike: dict[tuple[Strip, ...], list[str]] = {}
    for branch, rows in plan.rows.items():
        alike.setdefault(_strips(rows), []).append(branch)
    # Tables of weights are drawn by `weight_lines`: as text they are longer than any screen.
    shown = [
        f"{key}: a table" if isinstance(value, Mapping) else f"{key}={value}"
        for key, value in plan.parameters.items()
    ]
    predictor = f"{plan.predictor}({', '.join(shown)})"
    return [Panel(name, plan.model, tuple(b), predictor, strips) for strips, b in alike.items()]


def _strips(rows: Mapping[str, tuple[bool, ...]]) -> tuple[Strip, ...]:
    alike: dict[tuple[bool, ...], list[str]] = {}
    for site, row in rows.items():
        alike.setdefault(row, []).append(site)
    return tuple(Strip(_joined(sites), row) for row, sites in alike.items())


def _joined(sites: list[str]) -> str:
    """Names of sites, with successive depths of a kind as a range: `attn:0-11, mlp:3, guidance`.

    >>> _joined(["attn:0", "mlp:3", "attn:1", "attn:2", "guidance"])
    'attn:0-2, mlp:3, guidance'
    """
    kinds: dict[str, list[str]] = {}
    for site in sites:
        kind, _, depth = site.partition(":")
        kinds.setdefault(kind, []).append(depth)
    names = []
    for kind, depths in kinds.items():
        if all(depth.isdecimal() for depth in depths):
            # In a run of successive depths, depth minus list position is constant.
            for _, run in groupby(enumerate(sorted(map(int, depths))), key=lambda at: at[1] - at[0]):
                first, *more = (depth for _, depth in run)
                names.append(f"{kind}:{first}-{more[-1]}" if more else f"{kind}:{first}")
        else:
            names += [f"{kind}:{depth}" if depth else kind for depth in depths]
    text = ", ".join(names)
    return text if len(text) <= LONGEST else f"{names[0]} and more ({len(sites)} sites)"
