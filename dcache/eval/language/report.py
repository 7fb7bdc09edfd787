"""Results of an evaluation of policies: a table, a plot of bytes against quality, a page, and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from dcache.eval.bootstrap import interval
from dcache.eval.canvas import ACCENT, GREY, GRID, INK, new_figure, save
from dcache.eval.labels import place_labels
from dcache.eval.language.evaluation import Measured
from dcache.eval.language.policies import FULL
from dcache.eval.language.settings import LanguageSettings
from dcache.eval.machine import machine, versions
from dcache.eval.plain_page import page
from dcache.eval.rows import aligned
from dcache.util.files import write, write_json

# Inches of the plot, of a character of its key, and lines of a column of the key.
WIDTH, HEIGHT, KEY, LINES = 7.2, 4.6, 0.06, 30
# So many points have their names beside them.
NAMED = 12
HEADS = ("policy", "held", "exact", "95 %", "in turns", "nll", "text nll")


@dataclass(frozen=True)
class Figures:
    """Means over contexts and questions.

    Attributes:
        name: policy and budget.
        held: bytes held, as a share of all keys' and values'.
        exact: share of questions, asked by themselves, that are answered exactly.
        low, high: its 95 % interval, over contexts; None for fewer than two.
        in_turns: the same share where all are asked one after the other.
        nll: negative log-likelihood of a token of the answers, in nats.
        text_nll: of a token of the text's continuation; None where there is none.
    """

    name: str
    held: float
    exact: float
    low: float | None
    high: float | None
    in_turns: float
    nll: float
    text_nll: float | None


def figures_of(measured: Measured) -> Figures:
    """The figures of one policy at one budget."""
    answers = measured.answers
    exact = [float(value) for one in answers for value in one["exact"]]
    owners = [i for i, one in enumerate(answers) for _ in one["exact"]]
    low, high = interval(exact, owners) or (None, None)
    texts = [one["continuation_nll"] for one in answers if one["continuation_nll"] is not None]
    return Figures(
        measured.name,
        sum(one["bytes_held"] for one in answers) / sum(one["bytes_full"] for one in answers),
        fmean(exact),
        low,
        high,
        fmean(value for one in answers for value in one["in_turns"]),
        fmean(value for one in answers for value in one["nll"]),
        fmean(texts) if texts else None,
    )


def on_the_front(rows: Sequence[Figures]) -> list[Figures]:
    """The rows that no other one beats in both bytes and likelihood, the smallest first.

    >>> rows = [Figures(n, held, 1, None, None, 1, nll, None) for n, held, nll in
    ...     [("a", 1.0, 0.1), ("b", 0.5, 0.3), ("c", 0.6, 0.4)]]
    >>> [row.name for row in on_the_front(rows)]
    ['b', 'a']
    """
    front: list[Figures] = []
    for row in sorted(rows, key=lambda row: (row.held, row.nll)):
        if not front or row.nll < front[-1].nll:
            front.append(row)
    return front


def table(rows: Sequence[Figures]) -> str:
    """The rows as text; a star is at those on the front of bytes and likelihood."""
    front = on_the_front(rows)
    cells = [HEADS, *(_cells(row, row in front) for row in rows)]
    return aligned(cells)


def legend() -> str:
    """The lines below the table, which explain its columns."""
    return (
        "held: bytes of the cache, of all keys' and values'; exact: questions answered in every token, each\n"
        "asked of the compressed text by itself (95 % interval over contexts); in turns: the same in one\n"
        "conversation; nll: nats a token of the answers, and of the text that goes on; * no other row is\n"
        "better in both bytes and nll"
    )


def write_report(
    out: Path, name: str, settings: LanguageSettings, measured: Sequence[Measured]
) -> list[Path]:
    """Write results.json, front.png and report.html into a folder, each atomically; the figures first."""
    rows = [figures_of(one) for one in measured]
    about = {"model": name, "settings": vars(settings), "machine": machine(), "versions": versions()}
    content = {"format": "dcache.lm.results", "version": 1, **about, "rows": [asdict(row) for row in rows]}
    results = write_json(out / "results.json", content)
    plot = draw(rows, out / "front.png")
    text = _page(name, settings, rows, plot)
    return [
        results,
        plot,
        write(out / "report.html", lambda path: path.write_text(text, encoding="utf-8")),
    ]


def draw(rows: Sequence[Figures], path: Path) -> Path:
    """Save the plot: bytes across, likelihood up; of many rows points have numbers, with a key beside."""
    many = len(rows) > NAMED
    columns = -(-len(rows) // LINES) if many else 0
    column = KEY * max(len(row.name) + 5 for row in rows)
    width = WIDTH + columns * column
    figure = new_figure(width, HEIGHT)
    axes = figure.add_axes((0.1 * WIDTH / width, 0.12, 0.87 * WIDTH / width, 0.82))
    front = on_the_front(rows)
    points = [(100 * row.held, row.nll) for row in rows]
    line = [(100 * row.held, row.nll) for row in front]
    axes.plot(*zip(*line, strict=True), "-", color=ACCENT, linewidth=1.2, zorder=1)
    for row, point in zip(rows, points, strict=True):
        axes.plot(*point, "o", color=ACCENT if row in front else GREY, markersize=5, zorder=2)
    axes.set_xlabel("bytes held, % of the full cache")
    axes.set_ylabel("nats a token of the answers (lower is better)")
    # Room for the labels.
    axes.margins(x=0.12, y=0.1)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    names = [str(number) if many else row.name for number, row in enumerate(rows, 1)]
    place_labels(figure, axes, names, points, line)
    for at, row in enumerate(rows if many else ()):
        left, below = (WIDTH + at // LINES * column) / width, 0.93 - at % LINES * 0.82 / LINES
        ink = ACCENT if row in front else INK
        figure.text(left, below, f"{names[at]}  {row.name}", size=7, color=ink, va="center")
    return save(figure, path)


def _cells(row: Figures, best: bool) -> tuple[str, ...]:
    between = "" if row.low is None or row.high is None else f"{row.low:.2f}-{row.high:.2f}"
    text = "" if row.text_nll is None else f"{row.text_nll:.2f}"
    return (
        row.name,
        f"{row.held:.1%}",
        f"{row.exact:.2f}",
        between,
        f"{row.in_turns:.2f}",
        f"{row.nll:.2f}{'*' if best and row.name != FULL else ' '}",
        text,
    )


def _page(name: str, settings: LanguageSettings, rows: Sequence[Figures], plot: Path) -> str:
    front = on_the_front(rows)
    return page(
        f"{name}: what a compressed KV cache keeps",
        f"{settings.contexts} contexts, {settings.questions} questions to each, seed {settings.seed}. Every "
        "context is compressed before a question is known.",
        [HEADS, *(_cells(row, row in front) for row in rows)],
        [row in front for row in rows],
        {"bytes held against the likelihood of the answers": plot},
        legend(),
    )
