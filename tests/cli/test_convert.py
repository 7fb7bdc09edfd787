"""`dcache import` and `dcache export`: what they print, write and refuse."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from dcache.cli import main
from dcache.importers.ecad import convert
from dcache.importers.imported import Options
from dcache.methods import magcache
from dcache.schedule import Plan, Schedule
from tests.importers.published import bac, ecad, routers, smoothcache


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "evolved.json"
    path.write_text(json.dumps(ecad(random.Random(0), 20, 28)))
    return path


def test_an_import_says_what_it_read_and_writes_a_schedule(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.schedule.json"
    assert main(["import", str(file), "--out", str(out)]) == 0
    schedule = Schedule.load(out)
    computed = schedule.components[""].computed
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ecad: 20 evaluations, 84 sites of PixArtTransformer2DModel"
    share = f"{computed / 1680:.0%}"
    assert lines[1] == f"computed {computed} of 1680 ({share}); 0 of them are dead"
    assert lines[2].startswith("note: ")
    assert f"wrote {out}" in lines
    expected = convert(json.loads(file.read_text()), Options()).schedule
    assert expected is not None
    assert schedule.components == expected.components
    assert schedule.measured["imported"]["file"] == "evolved.json"


def test_there_and_back_by_the_command_line(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, back, second = (tmp_path / name for name in ("a.json", "b.json", "c.json"))
    assert main(["import", str(file), "--from", "ecad", "--out", str(first)]) == 0
    assert main(["export", str(first), "--to", "ecad", "--out", str(back)]) == 0
    assert "20 steps, 28 blocks" in capsys.readouterr().out
    assert main(["import", str(back), "--out", str(second)]) == 0
    assert Schedule.load(first).digest() == Schedule.load(second).digest()


def test_every_option_arrives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(0)
    contents: dict[str, tuple[Any, list[str], str]] = {
        "s.json": (smoothcache(draw, 5), ["--blocks", "3"], "smoothcache: 5 evaluations, 9 sites"),
        "b.json": (bac(draw, 9, 2), ["--steps", "9"], "bac: 9 evaluations, 6 sites"),
        "m.json": (
            {"ratios": [0.8, 1.2] * 4},
            ["--interleaved", "--steps", "9"],
            "magcache: ratios of magcache, 9",
        ),
        "r.pt": (
            routers(draw, 4, 2),
            ["--from", "harmonica", "--order", "first-last", "--threshold", "0.5"],
            "harmonica: 4 evaluations, 4 sites",
        ),
    }
    for name, (content, options, says) in contents.items():
        path, out = tmp_path / name, tmp_path / f"{name}.out.json"
        if name.endswith(".pt"):
            torch.save(content, path)
        else:
            path.write_text(json.dumps(content))
        assert main(["import", str(path), "--out", str(out), *options]) == 0
        assert capsys.readouterr().out.startswith(says)
        assert out.exists()
    told = Schedule.load(tmp_path / "r.pt.out.json").measured["imported"]
    assert (told["threshold"], told["order"]) == (0.5, "first-last")


def test_coefficients_are_written_as_the_presets_read_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "m.json", tmp_path / "out.json"
    path.write_text("[1.0, 0.9, 1.1]")
    assert main(["import", str(path), "--from", "magcache", "--out", str(out)]) == 0
    content = json.loads(out.read_text())
    assert (content["format"], content["of"]) == ("dcache.coefficients", {"imported": "m.json"})
    assert magcache(ratios=out).rule == magcache(ratios=[1.0, 0.9, 1.1]).rule
    assert f"dcache.enable(pipe, 'magcache', ratios={str(out)!r})" in capsys.readouterr().out


def test_dead_computes_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By hand: what is inside a predicted block is not run."""
    from dcache.cli.convert import describe
    from dcache.importers import Imported

    rows = {"block:0": (True, False, True), "attn:0": (True, True, False)}
    found = Imported("ecad", Schedule(3, {"": Plan({"*": rows}, codec="value")}))
    assert list(describe(found)) == [
        "ecad: 3 evaluations, 2 sites",
        "computed 4 of 6 (67%); 1 of them are dead: Schedule.canonical() drops them",
    ]


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        ("", [], "cannot be read as JSON"),
        ("{", [], "cannot be read as JSON"),
        ("{}", [], "none of the formats"),
        ('{"cache_schedule": {}}', [], '"num_inference_steps" must be'),
        ("[1, 1.1, 0.9, 1, 1]", [], "say what they are, with --from magcache"),
        ("[1, 2, 3, 4, 5]", ["--from", "ecad"], "this is not ECAD's format"),
        ('{"attn1": [1, 0]}', [], "give --blocks"),
        ('{"attn1": [1, 0]}', ["--blocks", "-1"], "blocks must be a whole number"),
        ('{"attn1": [1, 0]}', ["--blocks", "2", "--steps", "2"], "smoothcache has no use for steps"),
        (None, [], "cannot read"),
    ],
)
def test_garbage_ends_in_a_message_and_writes_nothing(
    content: str | None,
    options: list[str],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, out = tmp_path / "f.json", tmp_path / "out.json"
    if content is not None:
        path.write_text(content)
    out.write_text("kept")
    assert main(["import", str(path), "--out", str(out), *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("dcache: ")
    assert says in printed.err
    assert "Traceback" not in printed.err
    assert out.read_text() == "kept"
    assert {p.name for p in tmp_path.iterdir()} <= {"f.json", "out.json"}


def test_an_export_that_cannot_be_ends_in_a_message_and_writes_nothing(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Schedule.of_steps([0, 2], 4).save(tmp_path / "trunk.json")
    assert main(["export", str(path), "--to", "ecad", "--out", str(tmp_path / "out.json")]) == 2
    assert "attention and MLPs of blocks" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
    for command in (["import", str(file)], ["export", str(path), "--to", "ecad"]):
        assert main([*command, "--out", command[1]]) == 2
        assert "--out is the input file" in capsys.readouterr().err
    assert Schedule.load(path).steps == 4


def test_a_folder_that_is_not_there_is_told(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(file), "--out", str(tmp_path / "no" / "out.json")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_schedule_is_carried_to_another_number_of_evaluations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "a.schedule.json", tmp_path / "b.schedule.json"
    schedule = Schedule.of_steps((0, 3, 6), 9, predictor="newton", parameters={"order": 1})
    schedule.save(path)
    assert main(["export", str(path), "--to", "schedule", "--steps", "17", "--out", str(out)]) == 0
    assert "17 evaluations" in capsys.readouterr().out
    assert Schedule.load(out) == schedule.stretch(17)
    for more, message in [
        ([], "give --steps N"),
        (["--steps", "0"], "steps must be"),
        (
            ["--steps", "17", "--layout", "flux", "--single-blocks", "2"],
            "--single-blocks belong to --to ecad",
        ),
    ]:
        out.unlink(missing_ok=True)
        assert main(["export", str(path), "--to", "schedule", *more, "--out", str(out)]) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()
