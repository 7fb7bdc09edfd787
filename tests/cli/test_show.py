"""`dcache show`: a schedule as text and as a PNG; files that are none."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from dcache.cli import main
from dcache.cli.show import draw
from dcache.predictors.corrections import Correction, Corrections
from dcache.schedule import Plan, Schedule

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
