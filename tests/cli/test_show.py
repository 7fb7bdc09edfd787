"""`dcache show`: a schedule as text and as a PNG; files that are none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dcache.cli import main
from dcache.cli.show import draw
from dcache.predictors.corrections import Correction, Corrections
from dcache.schedule import Plan, Schedule
from tests.profile.full_profile import profile, tables

LISTED = Schedule.of_steps([0, 1, 4], 6)


def test_show_marks_what_is_computed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = LISTED.save(tmp_path / "listed.json")
    assert main(["show", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if "trunk" in line] == [["trunk", "■■··■·", "50%"]]
    assert "computed 3 of 6 (50%)" in lines


def test_show_joins_sites_and_branches_alike_and_keeps_others_apart() -> None:
    even, odd = (True, False, True), (True, True, False)
    rows = {"attn:0": even, "mlp:0": even, "attn:1": odd}
    other = dict.fromkeys(rows, odd)
    text = list(draw(Schedule(3, {"": Plan({"a": rows, "b": rows, "c": other})}), ("#", ".")))
    assert [line.split() for line in text if "#" in line and "%" in line] == [
        ["attn:0,", "mlp:0", "#.#", "67%"],
        ["attn:1", "##.", "67%"],
        ["attn:0-1,", "mlp:0", "##.", "67%"],
    ]
    assert [line for line in text if line.startswith("branch")] == ["branches a, b", "branch c"]
    assert "computed 18 of 27 (67%)" in text


def test_show_tells_of_corrections_and_noise_levels() -> None:
    table = {"trunk": {1: Correction(torch.ones(3), torch.zeros(3), 0)}}
    plan = Plan({"*": {"trunk": (True, False)}}, corrections=Corrections(table, {"trunk": -1}))
    text = list(draw(Schedule(2, {"": plan}, sigmas=(0.9994, 0.5, 0.0))))
    assert "corrected by channel: trunk" in text
    assert "own noise levels: 0.999, 0.5, 0" in text
    assert not any("own" in line or "corrected" in line for line in draw(LISTED))


def test_show_breaks_long_schedules() -> None:
    text = list(draw(Schedule.of_steps([0, 99], 100), ("#", ".")))
    pictures = [line.split()[1] for line in text if line.startswith("  trunk")]
    assert "".join(pictures) == "#" + "." * 98 + "#"
    assert max(map(len, text)) <= 100


def test_show_draws_a_png_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, picture = LISTED.save(tmp_path / "listed.json"), tmp_path / "listed.png"
    assert main(["show", str(path), "--png", str(picture)]) == 0
    assert capsys.readouterr().out.endswith(f"\n{picture}\n")
    with Image.open(picture) as image:
        assert image.format == "PNG"


@pytest.mark.parametrize("content", [None, "not json", json.dumps({"format": "other"})])
def test_a_bad_schedule_ends_in_a_message_and_status_2(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    assert main(["show", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("dcache: ")
    assert str(path) in printed.err
    assert "Traceback" not in printed.err


def test_show_prints_weights_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {"weights": {"*": {2: {0: -0.5, 1: 1.5}, 3: {1: 1.0}}}, "apart": {"trunk": {2: {1: 1.0}}}}
    plan = Plan({"*": {"trunk": (True, True, False, False)}}, "delta", "fitted", weights, "step")
    path = Schedule(4, {"transformer": plan}).save(tmp_path / "fitted.json")
    assert main(["show", str(path)]) == 0
    out = capsys.readouterr().out
    assert "predicted by fitted(weights: a table, apart: a table)" in out
    assert [line.split() for line in out.splitlines() if line.strip().startswith(("weights ", "apart "))] == [
        ["weights", "*", "2", "-0.500", "of", "0", "+1.500", "of", "1"],
        ["weights", "*", "3", "+1.000", "of", "1"],
        ["apart", "trunk", "2", "+1.000", "of", "1"],
    ]
    assert max(map(len, out.splitlines())) <= 110


def test_show_prints_a_profile_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = profile().save(tmp_path / "x.profile.safetensors")
    assert main(["show", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "profile of Toy: 4 evaluations, mean of 3 pictures, Euler, guidance 3, 64x32"
    assert "a call of 2 picture(s) without caching: 1.5 s" in lines
    (row,) = [line.split() for line in lines if line.startswith("attn:0")]
    # Mean |z_t+1 - z_t| over mean |z_t|, of the three pairs of neighbours.
    features = tables(20)[1]
    moved = np.abs(np.diff(features, axis=0)).mean(axis=1) / np.abs(features[:-1]).mean(axis=1)
    assert float(row[2]) == pytest.approx(moved.mean(), abs=6e-4)
    assert row[:2] == ["attn:0", "0"]
    (trunk,) = [line for line in lines if line.startswith("trunk")]
    assert trunk.split()[-5:] == ["0.25", "s", "0.01", "s", "1"]
    assert main(["show", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sites"]["attn:0"]["change"] == pytest.approx(moved.mean())
    assert main(["show", str(path), "--png", str(tmp_path / "x.png")]) == 2
    assert "--png draws a schedule" in capsys.readouterr().err
