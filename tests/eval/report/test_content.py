"""What a report says: gains from warm full calls, none for broken pictures, the best of each column."""

import json
from typing import Any

import pytest

from dcache.eval.report import report
from dcache.eval.report.content import Content, gather
from dcache.eval.report.markdown import markdown
from dcache.eval.store import Store

Run = tuple[Store, dict[str, Any]]


@pytest.fixture
def content(run: Run) -> Content:
    return gather(*run)


def column(content: Content, key: str) -> dict[str, str]:
    return {row.label: row.figures[key].text for row in content.rows}


def best(content: Content, key: str) -> set[str]:
    return {row.label for row in content.rows if row.figures[key].best}


def test_gains_are_those_of_warm_calls(content: Content) -> None:
    # The first call is cold and the last one makes one picture: 4 seconds against 2 and 3.2 count.
    assert column(content, "speedup") == {
        "uncached": "1.00×",
        "half": "2.00×",
        "close": "1.25×",
        "black": "–",
    }
    assert column(content, "denoiser_speedup")["half"] == "2.00×"
    assert column(content, "flops") == {"uncached": "100 %", "half": "25 %", "close": "25 %", "black": "25 %"}
    assert column(content, "computed") == {
        "uncached": "100 %", "half": "25 %", "close": "25 %", "black": "25 %",
    }  # fmt: skip
    assert column(content, "bytes_held") == {
        "uncached": "–", "half": "2 KiB", "close": "2 KiB", "black": "2 KiB",
    }  # fmt: skip


def test_a_cold_call_counts_where_there_is_no_other_and_the_report_says_so(make: Any) -> None:
    store, scores = make(8, 8, each=1)
    assert [len(items) for items in store.batches] == [2, 1]
    content = gather(store, scores)
    assert column(content, "seconds")["half"] == "4.500"
    assert [note.text for note in content.notes if "no warm call" in note.text] != []


def test_broken_pictures_are_no_gain_and_the_report_says_why(content: Content) -> None:
    black = content.rows[3]
    assert black.broken == black.figures["speedup"].why_not == black.figures["psnr"].why_not
    assert black.broken == "2 of 2 pictures are constant"
    assert black.figures["speedup"].value is None
    assert not any(figure.best for figure in black.figures.values())
    assert ("black", "2 of 2 pictures are constant, so no gain is reported") in [
        (note.about, note.text) for note in content.notes
    ]


def test_broken_uncached_pictures_leave_nothing_to_gain(run: Run) -> None:
    store, scores = run
    path = store.folder / "calls" / "uncached" / "00001.json"
    record = json.loads(path.read_text())
    # A safety checker may leave a batch of black pictures; that alone breaks nothing.
    path.write_text(json.dumps(record | {"broken": "2 of 2 pictures are constant"}))
    assert gather(store, scores).rows[0].broken == ""
    path.write_text(json.dumps(record | {"broken": "1 of 2 pictures contain NaN or infinity"}))
    content = gather(store, scores)
    assert "speedup" not in [column.key for column in content.columns]
    assert content.rows[0].broken


def test_the_best_of_each_column_is_marked(content: Content) -> None:
    assert best(content, "speedup") == {"half"}
    assert best(content, "psnr") == {"close"}
    # Where all are alike none is the best, nor where neither way is better.
    assert best(content, "bytes_held") == set()
    assert best(content, "computed") == set()
    assert best(content, "seconds") == {"half"}


def test_a_column_without_a_figure_is_left_out(content: Content) -> None:
    keys = [column.key for column in content.columns]
    assert keys == [
        "computed", "speedup", "denoiser_speedup", "seconds", "flops", "bytes_held", "psnr", "flicker",
    ]  # fmt: skip


def test_a_busy_machine_is_noted(run: Run) -> None:
    store, scores = run
    path = store.folder / "calls" / "half" / "00003.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 4.0}))
    texts = [note.text for note in gather(store, scores).notes]
    # Calls of 2, 2 and 4 seconds: their quartiles are 2 and 3.
    assert any(text.startswith("the machine was busy: equal calls took up to 50% longer") for text in texts)


def test_a_method_that_predicted_nothing_is_noted(run: Run) -> None:
    store, scores = run
    for path in (store.folder / "calls" / "close").iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"computed": 1.0}))
    found = [note.text for note in gather(store, scores).notes if note.about == "close"]
    assert found == ["nothing was predicted: every call computed everything", "watch <out>"]


def test_the_markdown_has_the_table_the_notes_and_the_calls(content: Content) -> None:
    lines = markdown(content).splitlines()
    assert lines[0] == r"# \<toy>: uncached and cached"
    (close,) = [line for line in lines if line.startswith("| close |")]
    assert close.count("|") == len(content.columns) + 2
    assert "| **40.0** (38.0–41.0) |" in close
    assert "- half: `dcache.enable(pipe, 'half')`" in lines
    assert r"- close: watch \<out>" in lines
    assert "- FID has no value: too few pictures" in lines
    assert "- too few" in lines


def test_the_json_has_every_figure_and_no_nan(run: Run) -> None:
    html, _, path = report(*run)
    assert [html.name, path.name] == ["report.html", "report.json"]
    found = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert (found["format"], found["version"]) == ("dcache.eval.report", 1)
    close = found["rows"][2]["figures"]["psnr"]
    assert close == {
        "value": 40.0, "low": 38.0, "high": 41.0, "text": "40.0", "spread": "38.0–41.0", "why_not": "",
        "best": True,
    }  # fmt: skip
