"""`dcache bench` from its arguments to its files."""

import json
from pathlib import Path
from typing import Any

import pytest

from dcache.cli import main


def test_it_prints_a_table_and_writes_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--steps", "3", "--repeats", "1", "--prompts", "demo:2", "--option", "max_sequence_length=12"]
    methods = ["--methods", "interval:interval=2;newton"]
    assert main(["bench", *short, *methods, "--out", str(tmp_path / "out")]) == 0
    printed, told = capsys.readouterr()
    assert "demo (PixArtAlphaPipeline): 2 of 64x64 in one batch, steps: 3, guidance: 3.0" in printed
    heads = next(line for line in printed.splitlines() if line.startswith("method"))
    assert {"FLOPs", "speedup", "denoiser", "PSNR", "held"} <= set(heads.split())
    assert any(line.startswith("interval 2") and "67 %" in line for line in printed.splitlines())
    assert "note: newton: nothing was predicted" in printed
    assert told.splitlines()[0] == "loading the model; then 2 x 3 calls"
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["pipeline"]["options"]["max_sequence_length"] == "12"
    assert (tmp_path / "out" / "speed-fidelity.png").exists()
    # A second folder, for what is printed alone.
    assert main(["bench", *short, "--methods", "newton", "--json", "--out", str(tmp_path / "json")]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain == json.loads((tmp_path / "json" / "results.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--methods", "newtn"], "Did you mean 'newton'"),
        (["--methods", "nowhere/a.json"], "cannot read the schedule"),
        (["--prompts", "nowhere.txt"], "nowhere.txt"),
        (["--option", "eta"], "expected NAME=VALUE"),
        (["demo-video", "--methods", "teacache"], "teacache needs coefficients="),
    ],
)
def test_wrong_arguments_end_before_anything_is_loaded(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    unloaded: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_pipeline_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise OSError("no such folder or id")

    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", missing)
    assert main(["bench", "nowhere/model", "--prompts", "a fox", "--out", str(tmp_path)]) == 2
    assert "cannot load the pipeline 'nowhere/model'" in capsys.readouterr().err
