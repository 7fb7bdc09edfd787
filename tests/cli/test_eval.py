"""`dcache eval` from its arguments to its exit status; what it makes is tested in tests/eval."""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from dcache.cli import eval as command
from dcache.cli import main
from dcache.cli.progress import shares
from dcache.errors import DcacheError
from dcache.eval import evaluation
from dcache.eval.evaluation import Result, evaluate
from dcache.eval.metrics.options import MetricOptions
from dcache.eval.settings import Settings
from tests.cli.heartbeats import without_heartbeats
from tests.eval.fake_pipeline import PROMPTS, Painter, contents

SHORT = ["--prompts", "demo:3", "--steps", "4", "--batch-size", "2", "--methods", "interval:interval=2"]


def test_it_makes_scores_reports_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "out"
    assert main(["eval", "--out", str(out), *SHORT, "--metrics", "psnr"]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].startswith("demo: 3 pictures of 3 prompts")
    (header,) = (line for line in lines if line.startswith("method "))
    assert {"computed", "speedup", "PSNR"} <= set(header.split())
    (row,) = (line for line in lines if line.startswith("interval 2 "))
    scores = json.loads((out / "scores.json").read_text())
    value = next(
        its["psnr"]["value"] for name, its in scores["methods"].items() if name.startswith("interval")
    )
    assert f"{value:.1f}" in row
    assert "50 %" in row
    assert lines[-1] == f"next: open {out / 'report.html'} in a browser"
    assert (out / "report.html").exists()
    assert "uncached: 0 of 4" in printed.err
    assert "pictures: 4 of 4" in printed.err


def test_stages_apart_say_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluation, "load", lambda *_, **__: Painter())
    out = ["--out", str(tmp_path)]
    asked = ["eval", "painter", "--prompts", "a red fox", "--methods", "", "--device", "cpu", *out]
    monkeypatch.setattr(evaluation, "parse", lambda *_: [])
    stages = ["generate", "score", "report"]
    nexts = []
    for stage in stages:
        assert (
            main([*(asked if stage == "generate" else ["eval", *out]), "--stage", stage, "--metrics", "psnr"])
            == 0
        )
        nexts.append(capsys.readouterr().out.splitlines()[-1])
    assert nexts == [
        f"next: dcache eval --out {tmp_path} --stage score --stage report",
        f"next: dcache eval --out {tmp_path} --stage report",
        f"next: open {tmp_path / 'report.html'} in a browser",
    ]


def test_every_argument_arrives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def take(*arguments: Any, **more: Any) -> None:
        asked.append((arguments, more))
        raise DcacheError("seen")

    monkeypatch.setattr(evaluation, "evaluate", take)
    (tmp_path / "p.csv").write_text("text\na fox\n")
    words = f"""eval some/pipe --prompts {tmp_path / "p.csv"} --prompt-column text --methods newton
        --images-per-prompt 3 --seed 5 --steps 6 --guidance 2.5 --height 8 --width 16 --frames 9
        --batch-size 4
        --dtype float16 --device cpu --option eta=0.5 --metrics psnr,clip --clip-model M --reference R
        --score-batch-size 2 --stage score --stage report --no-warm-up --out {tmp_path}"""
    assert main(words.split()) == 2
    ((pipeline, prompts, methods, settings), more) = asked[0]
    assert (pipeline, prompts, methods) == ("some/pipe", ["a fox"], "newton")
    assert settings == Settings(3, 5, 6, 2.5, 8, 16, 9, 4, "float16", "cpu", {"eta": 0.5})
    del more["progress"]
    assert more == {
        "out": tmp_path,
        "metrics": ["psnr", "clip"],
        "metric_options": MetricOptions(clip_model="M", reference=Path("R"), score_batch_size=2),
        "warm_up": False,
        "stages": ["score", "report"],
    }
    assert main(["eval"]) == 2
    assert asked[1][0] == (None, None, command.METHODS, Settings())
    assert asked[1][1]["metric_options"] == MetricOptions()


def test_every_option_of_metrics_is_a_flag() -> None:
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    given = parser.parse_args(["eval"])
    assert {field.name: getattr(given, field.name) for field in fields(MetricOptions)} == vars(
        MetricOptions()
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--steps", "0"], "steps must be a whole number between 1"),
        (["--metrics", "psnr,,"], "no metric"),
        (["--metrics", ""], "no metric"),
        (["--prompts", ""], "--prompts is empty"),
        (["--option", "eta"], "expected NAME=VALUE"),
        (["--score-batch-size", "0"], "score_batch_size must be at least 1"),
        (["--stage", "score"], "holds no evaluation"),
    ],
)
def test_wrong_arguments_end_before_anything_is_loaded(
    arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(evaluation, "load", lambda *_, **__: pytest.fail("the pipeline was loaded"))
    assert main(["eval", "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dcache: ")
    assert expected in error
    assert not (tmp_path / "out").exists()


def test_a_method_left_out_is_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setattr(evaluation, "load", lambda *_, **__: Painter())
    made = evaluate("painter", PROMPTS, [], Settings(device="cpu"), out=tmp_path, metrics=["psnr"])

    def unfinished(*_: Any, **__: Any) -> Result:
        return replace(made, unfinished=["blue"])

    monkeypatch.setattr(evaluation, "evaluate", unfinished)
    assert main(["eval", "--out", str(tmp_path)]) == 0
    assert "note: blue is left out, because its generation was interrupted" in capsys.readouterr().out


def test_each_process_tells_its_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with shares(1, 2) as tell:
        for done in range(4):
            tell("newton 4", done, 3)
    first, last = without_heartbeats(capsys.readouterr().err)
    assert first.startswith("process 1 of 2: newton 4: 0 of 3 (")
    assert last.startswith("process 1 of 2: newton 4: 3 of 3 (")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_while_it_draws_it_goes_on_and_draws_the_same(tmp_path: Path) -> None:
    draw = random.Random(3)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}

    def start(out: Path) -> subprocess.Popen[bytes]:
        words = ["-P", "-m", "dcache.cli", "eval", "--out", str(out), *SHORT, "--metrics", "psnr"]
        return subprocess.Popen([sys.executable, *words], env=environment, stderr=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait() == 0
    out = tmp_path / "killed"
    for kills in range(1, 5):
        run = start(out)
        # Wait for something new, then a moment longer.
        before = len(contents(out))
        while run.poll() is None and len(contents(out)) == before:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.2))
        run.kill()
        run.wait()
        there = {path: path.stat().st_mtime_ns for path in out.rglob("images/*/[!.]*.png")}
        assert there or kills == 1
    assert start(out).wait() == 0
    assert contents(out) == contents(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in there} == there
    assert json.loads((out / "scores.json").read_text()) == json.loads(
        (tmp_path / "whole/scores.json").read_text()
    )
