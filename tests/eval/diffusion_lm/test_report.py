"""Figures, table and page of an evaluation of row policies."""

import json
from pathlib import Path
from typing import Any

from dcache.eval.diffusion_lm.entries import Order
from dcache.eval.diffusion_lm.evaluation import Measured
from dcache.eval.diffusion_lm.figures import figures_of
from dcache.eval.diffusion_lm.report import legend, table, write_report
from dcache.eval.diffusion_lm.settings import RowSettings
from dcache.eval.diffusion_lm.subject import RowSubject

BLOCK, WINDOW = Order(8, None), Order(8, 2)


def runs(scores: list[list[float]], tokens: list[int], rows: float) -> list[dict[str, Any]]:
    """A run of two prompts with two tokens each for each seed."""
    return [
        {
            "scores": of_seed,
            "tokens": [tokens[:2], tokens[2:]],
            "rows": rows,
            "possible": 100,
            "forwards": 2,
            "seconds": 0.5,
            "bytes_held": 2048,
        }
        for of_seed in scores
    ]


MEASURED = [
    Measured("none", BLOCK, runs([[1, 0.5], [1, 0.5]], [1, 2, 3, 4], 100)),
    Measured("dual", BLOCK, runs([[1, 0], [0.5, 0]], [1, 2, 3, 5], 25)),
    Measured("none", WINDOW, runs([[0, 0], [0, 0]], [9, 9, 9, 9], 100)),
    Measured("window window=2", WINDOW, runs([[0, 1], [1, 0]], [9, 9, 8, 8], 10)),
]


def test_figures_compare_with_the_uncached_loop_of_the_order() -> None:
    none, dual, other, window = figures_of(MEASURED, seeds=2)
    assert (none.quality, none.ratio, none.same, none.rows) == (0.75, 1.0, 1.0, 1.0)
    assert (dual.quality, dual.ratio, dual.same, dual.rows) == (0.375, 0.5, 0.75, 0.25)
    assert (dual.steps, dual.seconds, dual.held) == (2, 1.0, 2048)
    # Two prompts, whose means over seeds are .75 and 0: an interval has nothing beyond them.
    assert (dual.low, dual.high) == (0.0, 0.75)
    assert other.ratio is None
    assert window.same == 0.5


def test_an_interval_is_over_prompts_and_not_over_seeds() -> None:
    """Both prompts have the same mean over their seeds, so the mean is certain."""
    (window,) = figures_of(MEASURED, seeds=2)[3:]
    assert (window.low, window.high) == (0.5, 0.5)


def test_the_files_have_the_same_figures(tmp_path: Path) -> None:
    subject = RowSubject("toy <model>", None, lambda *_: [], 8, 8, 1.0, "share of toys", "")
    settings = RowSettings(prompts=2, seeds=2).of(subject)
    files = write_report(tmp_path, subject, settings, MEASURED)
    assert [path.name for path in files] == ["results.json", "quality.png", "report.html"]
    content = json.loads(files[0].read_text())
    assert [one["quality"] for one in content["rows"]] == [0.75, 0.375, 0.0, 0.5]
    assert content["settings"]["temperature"] == 1.0
    assert files[1].read_bytes().startswith(b"\x89PNG")
    page = files[2].read_text()
    assert "toy &lt;model&gt;" in page
    assert "<td>0.375</td><td>0.000-0.750</td><td>0.500</td><td>75.0%</td><td>25.0%</td>" in page
    assert "share of toys" in page
    # Self-contained.
    assert "http" not in page
    lines = table(figures_of(MEASURED, 2)).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["none,", "dual", "none,", "window"]
    assert legend(subject).startswith("quality: share of toys")


def test_one_prompt_has_no_interval() -> None:
    alone = Measured("none", BLOCK, [{**run, "scores": [1.0], "tokens": [[1]]} for run in MEASURED[0].runs])
    (row,) = figures_of([alone], seeds=len(alone.runs))
    assert (row.low, row.high, row.quality) == (None, None, 1.0)
