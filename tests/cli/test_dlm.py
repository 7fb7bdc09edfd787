"""`dcache dlm`: the policies, the demonstration, an evaluation of a shipped model, and the bench."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from dcache import diffusion_lm
from dcache.cli import main
from dcache.demo.texts import mirror, run
from dcache.eval.diffusion_lm import bench

SHORT = ["--prompts", "4", "--seeds", "1", "--policies", "dual:block=4;window:window=4"]


def test_policies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dlm", "methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(diffusion_lm.available())
    assert main(["dlm", "methods", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == diffusion_lm.available()


@pytest.mark.slow
def test_the_demonstration_shows_every_policy_and_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "SHIPPED", {"mirror": "dcache.demo.texts.mirror"})
    monkeypatch.setattr(mirror, "POLICIES", "dkv:refresh=0,delay=0;dual:block=4")
    out = tmp_path / "new"
    assert main(["dlm", "demo", "--prompts", "3", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    rows = json.loads((out / "mirror.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["none", "dkv refresh=0 delay=0", "none", "dual block=4"]
    for row in rows:
        assert f"{row['rows']:.1%}" in printed
    assert (out / "mirror.png").read_bytes().startswith(b"\x89PNG")
    assert "dcache.enable(model" in printed


@pytest.mark.slow
def test_an_evaluation_prints_what_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["dlm", "eval", "mirror", "--out", str(tmp_path), *SHORT]
    assert main(line) == 0
    printed, progress = capsys.readouterr()
    assert "done: 4 of 4" in progress
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["settings"]["new"] == results["settings"]["block"] == 16
    for row in results["rows"]:
        assert f"{row['quality']:.3f}" in printed
    assert str(tmp_path / "report.html") in printed
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 2
    # Going on costs nothing, and prints the same.
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert len(files) == 4
    assert main([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == results["rows"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()} == files


def test_a_bench_prints_a_row_for_each_loop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = bench.random_subject(hidden_size=32, intermediate_size=32, num_hidden_layers=1, vocab_size=4096)
    monkeypatch.setattr(bench, "random_subject", lambda device, dtype: small)
    line = "dlm bench --batches 2 --temperatures 0 --steps 3 --repeats 1 --policies dual"
    assert main(shlex.split(line)) == 0
    assert "2" in capsys.readouterr().out
    assert main([*shlex.split(line), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["batch"], row["forwards"]) for row in result["rows"]] == [
        ("none", 2, 3),
        ("dual", 2, 3),
    ]
    assert result["rows"][1]["share"] == pytest.approx((256 + 2 * 32) / (3 * 256))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dlm eval", "MODEL"),
        ("dlm eval mirror --prompts 0", "prompts must be a whole number"),
        ("dlm eval mirror --seeds 0", "seeds must be a whole number"),
        ("dlm eval mirror --seed -1", "seed must be a whole number"),
        ("dlm eval mirror --new 0", "new must be a whole number"),
        ("dlm eval mirror --block 0", "block must be a whole number"),
        ("dlm eval mirror --temperature -1", "temperature must be a number of at least 0"),
        ("dlm eval mirror --decoder lowest", "decoder 'lowest' is unknown"),
        ("dlm eval mirror --policies ''", "--policies names none"),
        ("dlm eval mirror --policies duel", "Did you mean 'dual'"),
        ("dlm eval mirror --policies dkv:variant=greedy", "use decoder='random' or 'left'"),
        ("dlm eval mirror --dtype float8", "--dtype: invalid choice"),
        ("dlm eval mirror --device bogus", "there is no device 'bogus'"),
        ("dlm eval mirror --out ''", "expected a path"),
        ("dlm eval nowhere/at/all", "there is no folder nowhere/at/all"),
        ("dlm demo --prompts 0", "prompts must be a whole number"),
        ("dlm evil", "invalid choice"),
        ("dlm bench --steps 0", "--steps must be a whole number"),
        ("dlm bench --repeats 0", "--repeats must be a whole number"),
        ("dlm bench --batches ''", "--batches names none"),
        ("dlm bench --batches 1,many", "--batches must be a whole number"),
        ("dlm bench --temperatures hot", "--temperatures must be a number"),
        ("dlm bench --policies ''", "--policies names none"),
        ("dlm bench --device bogus", "there is no device 'bogus'"),
    ],
)
def test_bad_lines_are_one_sentence(line: str, message: str, refused: Callable[[str], str]) -> None:
    assert message in refused(line)
