"""Figures, front, table and page of an evaluation of policies."""

import json
from pathlib import Path
from typing import Any

import pytest

from dcache.eval.language import report
from dcache.eval.language.evaluation import Measured
from dcache.eval.language.report import Figures, figures_of, on_the_front, table, write_report
from dcache.eval.language.settings import LanguageSettings


def answers(exact: list[bool], nll: list[float], held: int, text: float | None = None) -> dict[str, Any]:
    return {
        "exact": exact,
        "nll": nll,
        "in_turns": exact[::-1],
        "continuation_nll": text,
        "bytes_held": held,
        "bytes_full": 100,
        "prefill_seconds": 0.1,
    }


MEASURED = [
    Measured(
        "full",
        1.0,
        [answers([True, True], [0.1, 0.3], 100, 2.0), answers([True, False], [0.5, 0.7], 100, 3.0)],
    ),
    Measured(
        "kvzip", 0.25, [answers([True, False], [1.0, 2.0], 20), answers([False, False], [3.0, 2.0], 40)]
    ),
]


def test_figures_are_means_over_questions_and_contexts() -> None:
    full, kvzip = map(figures_of, MEASURED)
    assert full == Figures("full", 1.0, 0.75, 0.5, 1.0, 0.75, pytest.approx(0.4), 2.5)
    assert (kvzip.name, kvzip.held, kvzip.exact) == ("kvzip, 25 %", 0.3, 0.25)
    assert (kvzip.nll, kvzip.text_nll) == (2.0, None)
    # Of one context nothing is known about others.
    alone = figures_of(Measured("kvzip", 8, MEASURED[1].answers[:1]))
    assert (alone.name, alone.low, alone.high) == ("kvzip, 8 tokens", None, None)


def row(name: str, held: float, nll: float) -> Figures:
    return Figures(name, held, 0.5, None, None, 0.5, nll, None)


def test_the_front_has_no_row_that_another_beats_in_both() -> None:
    figures = {"full": (1.0, 0.1), "a": (0.5, 0.4), "b": (0.5, 0.3), "c": (0.7, 0.3), "d": (0.1, 9.0)}
    rows = [row(name, *values) for name, values in figures.items()]
    assert [one.name for one in on_the_front(rows)] == ["d", "b", "full"]
    assert [line.split()[0] for line in table(rows).splitlines() if "*" in line] == ["b", "d"]


@pytest.mark.parametrize("count", [report.NAMED, report.NAMED + 1, 65])
def test_all_names_of_a_plot_can_be_read(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    beside: list[str] = []
    monkeypatch.setattr(report, "save", lambda figure, path: figures.append(figure) or path)
    # Their places have tests of their own (test_labels.py).
    monkeypatch.setattr(report, "place_labels", lambda _figure, _axes, names, *_: beside.extend(names))
    rows = [row(f"retrieval_attention dense_layers=0 {i}, 12.5 %", i % 8, i // 8) for i in range(count)]
    report.draw(rows, tmp_path / "front.png")
    (figure,) = figures
    keys = [text.get_text() for text in figure.texts]
    if count == report.NAMED:
        assert (keys, beside) == ([], [one.name for one in rows])
        return
    assert keys == [f"{number}  {one.name}" for number, one in enumerate(rows, 1)]
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.texts]
    axes = figure.axes[0]
    boxes.append(axes.get_window_extent(renderer))
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width and 0 <= box.y0 <= box.y1 for box in boxes)
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    assert beside == [str(number) for number in range(1, count + 1)]


def test_the_files_have_the_same_figures(tmp_path: Path) -> None:
    settings = LanguageSettings(contexts=2, questions=2)
    files = write_report(tmp_path, "toy <model>", settings, MEASURED)
    assert [path.name for path in files] == ["results.json", "front.png", "report.html"]
    content = json.loads(files[0].read_text())
    assert [one["exact"] for one in content["rows"]] == [0.75, 0.25]
    assert content["settings"]["contexts"] == 2
    assert files[1].read_bytes().startswith(b"\x89PNG")
    page = files[2].read_text()
    assert "toy &lt;model&gt;" in page
    assert "<td>kvzip, 25 %</td><td>30.0%</td><td>0.25</td>" in page
    # Self-contained.
    assert "http" not in page.replace("http-equiv", "")
