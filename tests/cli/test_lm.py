"""`dcache lm`: the policies, and an evaluation of the shipped model."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from dcache import lm_kv
from dcache.cli import main

SHORT = ["--contexts", "1", "--questions", "2", "--budgets", "0.5", "--policies", "kvzip"]


def test_policies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lm", "methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(lm_kv.available())
    assert main(["lm", "methods", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == lm_kv.available()


def test_a_calibration_prints_what_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "recall.safetensors"
    line = ["lm", "calibrate", "recall", "--contexts", "1", "--questions", "2", "--out", str(out)]
    assert main(line) == 0
    printed, told = capsys.readouterr()
    assert "done: 3 of 3" in told
    assert printed.splitlines()[-1] == f"wrote {out}"
    # Going on costs nothing, and prints the same figures.
    assert main([*line, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["layers"]
    for row, text in zip(rows, printed.splitlines()[1:], strict=False):
        assert text.split()[:2] == [str(row["layer"]), f"{row['sensitivity']:.4f}"]
    assert lm_kv.duo_attention(pattern=out).scorer.pattern[1] == tuple(rows[1]["reach"])


def test_an_evaluation_prints_what_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["lm", "eval", "recall", "--out", str(tmp_path), *SHORT]
    assert main(line) == 0
    printed, told = capsys.readouterr()
    assert "done: 2 of 2" in told
    results = json.loads((tmp_path / "results.json").read_text())
    for row in results["rows"]:
        (shown,) = [text for text in printed.splitlines() if text.startswith(row["name"])]
        assert f"{row['held']:.1%}" in shown
    assert str(tmp_path / "report.html") in printed
    # Going on costs nothing, and prints the same.
    assert main([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == results["rows"]


def test_a_bench_prints_a_row_for_each_cache(capsys: pytest.CaptureFixture[str]) -> None:
    line = [
        "lm",
        "bench",
        "recall",
        "--lengths",
        "64",
        "--steps",
        "2",
        "--repeats",
        "1",
        "--policies",
        "tova",
    ]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert [text.split()[0] for text in printed.splitlines() if " 64 " in text] == ["DynamicCache", "tova,"]
    assert main([*line, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["DynamicCache", "tova, 25 %"]
    assert rows[1]["held_share"] < 0.5 < rows[0]["held_share"] == 1.0


def test_a_bench_says_why_other_libraries_take_no_part(capsys: pytest.CaptureFixture[str]) -> None:
    line = "lm bench recall --lengths 64 --steps 1 --repeats 1 --policies kvzip --peers --json"
    assert main(shlex.split(line)) == 0
    printed, told = capsys.readouterr()
    names = [row["name"] for row in json.loads(printed)]
    assert names[:2] == ["DynamicCache", "kvzip, 25 %"]
    assert "QuantizedCache fp8, 8 bits" in names
    assert "kvpress is left out: no policy of the bench is kvpress's too" in told


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lm calibrate recall", "--out"),
        ("lm calibrate recall --out nowhere/a", "there is no folder"),
        ("lm calibrate recall --out a --contexts 0", "contexts must be a whole number"),
        ("lm calibrate nowhere/at/all --out a", "there is no folder nowhere/at/all"),
        ("lm eval", "MODEL"),
        ("lm eval recall --contexts 0", "contexts must be a whole number"),
        ("lm eval recall --questions 13", "questions must be a whole number between 1 and 12"),
        ("lm eval recall --tokens 3", "tokens must be a whole number"),
        ("lm eval recall --seed -1", "seed must be a whole number"),
        ("lm eval recall --policies ''", "--policies names none"),
        ("lm eval recall --policies snapvk", "Did you mean 'snapkv'"),
        ("lm eval recall --budgets 2.0", "--budgets has '2.0'"),
        ("lm eval recall --dtype float8", "--dtype: invalid choice"),
        ("lm eval recall --device bogus", "there is no device 'bogus'"),
        ("lm eval recall --out ''", "expected a path"),
        ("lm evil", "invalid choice"),
        ("lm bench random --steps 0", "--steps must be a whole number"),
        ("lm bench random --repeats 0", "--repeats must be a whole number"),
        ("lm bench random --lengths ''", "--lengths names none"),
        ("lm bench random --lengths 64,many", "--lengths must be a whole number"),
        ("lm bench random --lengths 8", "--lengths must be a whole number"),
        ("lm bench random --budgets none", "--budgets has 'none'"),
        ("lm bench random --device bogus", "there is no device 'bogus'"),
        ("lm bench nowhere/at/all", "there is no folder nowhere/at/all"),
    ],
)
def test_bad_lines_are_one_sentence(line: str, message: str, refused: Callable[[str], str]) -> None:
    assert message in refused(line)
