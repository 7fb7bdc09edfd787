"""Schedules as files: round trips, refusals, edits by hand, interrupted writes."""

import copy
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from dcache.errors import DcacheError
from dcache.methods.replay import replay
from dcache.schedule import Plan, Schedule
from dcache.schedule.plan import RunLength
from tests.schedule.corrected_schedules import edited
from tests.schedule.schedules import FULL, SMALL, row


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return FULL.save(tmp_path / "a.schedule.json")


@pytest.mark.parametrize("schedule", [FULL, SMALL])
def test_a_file_gives_the_same_schedule_back(schedule, tmp_path):
    path = schedule.save(tmp_path / "s.json")
    assert path == tmp_path / "s.json"
    assert Schedule.load(path) == schedule
    assert Schedule.load(str(path)) == schedule
    assert [f.name for f in tmp_path.iterdir()] == ["s.json"]
    again = Schedule.load(path).save(tmp_path / "t.json")
    assert again.read_bytes() == path.read_bytes()


def test_a_new_file_has_the_usual_permissions(file, tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    assert file.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("fails", ["write_text", "replace"])
def test_an_exception_while_saving_leaves_the_old_file(file, fails, monkeypatch):
    def broken(self, *args, **kwargs):
        if fails == "write_text":
            self.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, fails, broken)
    with pytest.raises(KeyboardInterrupt):
        SMALL.save(file)
    monkeypatch.undo()
    assert Schedule.load(file) == FULL
    assert [f.name for f in file.parent.iterdir()] == [file.name]


def test_saving_where_it_cannot_be_is_an_error(tmp_path):
    with pytest.raises(DcacheError, match="cannot write"):
        SMALL.save(tmp_path / "no" / "s.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DcacheError, match="cannot write"):
        SMALL.save(tmp_path / "folder")
    with pytest.raises(DcacheError, match="as JSON"):
        replace(SMALL, measured={"machine": object()}).save(tmp_path / "s.json")
    assert [f.name for f in tmp_path.iterdir()] == ["folder"]


def test_truncated_anywhere_it_is_refused(tmp_path):
    whole = SMALL.save(tmp_path / "s.json").read_bytes()
    cut = tmp_path / "cut.json"
    for length in range(len(whole) - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(DcacheError, match=r"cut\.json"):
            Schedule.load(cut)


def mutated(value, rng):
    """The same JSON with one random place changed."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(sorted(value))
        draw = rng.random()
        rest = {k: v for k, v in value.items() if k != key}
        if draw < 0.1:
            return rest
        return rest | ({key + "x": value[key]} if draw < 0.2 else {key: mutated(value[key], rng)})
    if isinstance(value, list) and value and rng.random() < 0.8:
        i = rng.randrange(len(value))
        return [*value[:i], mutated(value[i], rng), *value[i + 1 :]]
    if isinstance(value, str) and value and rng.random() < 0.5:
        i = rng.randrange(len(value))
        return value[:i] + rng.choice("01:x-é") + value[i + 1 :]
    others = [
        None,
        True,
        False,
        0,
        1,
        -3,
        2.5,
        float("nan"),
        float("inf"),
        "",
        "01",
        "trunk",
        [],
        [1],
        {},
        {"a": []},
    ]
    return copy.deepcopy(rng.choice([*others, 10**30]))


def test_edited_by_hand_it_is_refused_or_means_the_same(file):
    content = json.loads(file.read_text())
    rng = random.Random(0)
    loaded, messages = [], []
    for _ in range(250):
        file.write_text(json.dumps(mutated(content, rng)))
        try:
            loaded.append(Schedule.load(file))
        except DcacheError as error:
            messages.append(str(error))
    assert all(schedule == FULL for schedule in loaded)
    assert all(file.name in message for message in messages)
    assert len(messages) > 150


def test_without_its_checksum_an_edit_is_checked_and_whatever_loads_works(file, tmp_path):
    content = json.loads(file.read_text())
    del content["checksum"]
    rng = random.Random(1)
    accepted = 0
    for _ in range(300):
        file.write_text(json.dumps(mutated(content, rng)))
        try:
            loaded = Schedule.load(file)
        except DcacheError:
            continue
        accepted += 1
        for name in loaded.components:
            replay(loaded, name)
        loaded.digest()
        loaded.stretch(9).canonical()
        assert json.loads(loaded.save(tmp_path / "again.json").read_text())["steps"] == loaded.steps
    assert 15 < accepted < 150


def test_a_number_beyond_floats_is_no_reason_to_crash(tmp_path):
    path = replace(SMALL, guidance=10**400).save(tmp_path / "s.json")
    assert Schedule.load(path).guidance == 10**400


def test_an_edit_without_the_checksum_is_accepted(file):
    content = json.loads(file.read_text())
    content["guidance"] = 7.0
    file.write_text(json.dumps(content))
    with pytest.raises(DcacheError, match=r"delete its .checksum"):
        Schedule.load(file)
    del content["checksum"]
    file.write_text(json.dumps(content))
    assert Schedule.load(file) == replace(FULL, guidance=7.0)


PLAN = ("components", "transformer")
ROWS = (*PLAN, "rows", "cond")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("format",), "other", '"format": "dcache.schedule"'),
        (("version",), 2, "version 2 is not readable here, expected 1"),
        (("version",), None, "expected 1"),
        (("steps",), 7, "6 entries, expected 7"),
        (("steps",), 0, "at least 1"),
        (("steps",), True, "whole number"),
        (("steps",), 6.0, "'steps' must be int"),
        (("extra",), 1, r"unknown \['extra'\]"),
        (("components",), {}, "at least one component"),
        (("components", "x"), [], "component 'x' must be an object"),
        (("resolution",), [512, "512"], "resolution"),
        (("resolution",), [True, 512], "resolution"),
        (("guidance",), float("nan"), "guidance"),
        (("guidance",), float("-inf"), "guidance"),
        (("guidance",), True, "guidance"),
        ((*PLAN, "predictor"), "spline", "reuse, newton, taylor"),
        ((*PLAN, "parameters"), {"order": 99}, "order"),
        ((*PLAN, "parameters"), {"ordre": 1}, "ordre"),
        ((*PLAN, "parameters"), {"since": []}, "since"),
        ((*PLAN, "codec"), "fp4", "codec"),
        ((*PLAN, "clock"), "noon", "clock"),
        ((*PLAN, "branches"), "alone", "branches"),
        ((*PLAN, "depth"), 3, r"unknown \['depth'\]"),
        ((*PLAN, "rows"), {}, "no rows"),
        (ROWS, {}, "'cond' .* has no rows"),
        (ROWS, [], "'cond' .* has no rows"),
        ((*ROWS, "run:1-3"), "1101", "4 entries, expected 6"),
        ((*ROWS, "run:1-3"), "11010x", "text of 0 and 1"),
        ((*ROWS, "run:1-3"), [1, 1, 0, 1, 0, 0], "text of 0 and 1"),
        ((*ROWS, "attn:9"), "110100", "same sites"),
        ((*PLAN, "rows"), {"*": {"truck": "110100"}}, "'truck' .* no site's name"),
        ((*PLAN, "rows"), {"*": {"auto": "110100"}}, "'auto' .* no site's name"),
    ],
)
def test_refusals_say_what_is_wrong(file, path, value, says):
    content = json.loads(file.read_text())
    del content["checksum"]
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(json.dumps(content))
    with pytest.raises(DcacheError, match=says):
        Schedule.load(file)


@pytest.mark.parametrize("key", ["format", "version", "method", "steps", "components", "measured"])
def test_missing_keys_are_named(file, key):
    content = json.loads(file.read_text())
    del content["checksum"], content[key]
    file.write_text(json.dumps(content))
    with pytest.raises(DcacheError, match=key):
        Schedule.load(file)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"3",
        b'"x"',
        b"{}",
        b"[" * 100_000,
        b"1" * 5000,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
    ],
)
def test_what_is_no_schedule_is_refused(data, tmp_path):
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(DcacheError, match=r"x\.json"):
        Schedule.load(tmp_path / "x.json")


@pytest.mark.parametrize("path", ["nowhere.json", "a\0b.json", "."])
def test_what_cannot_be_read_is_refused(path, tmp_path):
    with pytest.raises(DcacheError, match="cannot read the schedule"):
        Schedule.load(f"{tmp_path}/{path}")


@pytest.mark.parametrize("sigmas", [[1, 0.5], "x", [1, 0.8, 0.6, 0.4, 0.2, None], [1] * 6, [2.0, *[0.1] * 5],
                                    [float("nan")] * 6, [True] * 6, {"a": 1}, 10**30])  # fmt: skip
def test_noise_levels_of_a_file_are_checked(tmp_path, sigmas):
    path = Schedule.of_steps([0], 6).save(tmp_path / "s.json")
    edited(path, lambda content: content.update(sigmas=sigmas))
    with pytest.raises(DcacheError, match=r"noise levels|sigmas"):
        Schedule.load(path)


RUNS = Schedule(5, {"": Plan({"*": {"trunk": row("10010")}}, runs=(RunLength(3, 3), RunLength(2, 0)))})


def test_lengths_of_runs_are_kept_and_left_out_where_there_are_none(tmp_path):
    path = RUNS.save(tmp_path / "runs.json")
    assert json.loads(path.read_text())["components"][""]["runs"] == [[3, 3], [2, 0]]
    assert Schedule.load(path) == RUNS
    assert "runs" not in SMALL.save(tmp_path / "small.json").read_text()


@pytest.mark.parametrize("runs", [[[3]], [[3, -1]], [[3, 2.0]], [3, 2], "32", [[True, 2]]])
def test_lengths_of_runs_are_pairs_of_whole_numbers(runs, tmp_path):
    path = RUNS.save(tmp_path / "runs.json")
    content = json.loads(path.read_text())
    del content["checksum"]
    content["components"][""]["runs"] = runs
    path.write_text(json.dumps(content))
    with pytest.raises(DcacheError, match=r'"runs" of component .* must be a list of pairs'):
        Schedule.load(path)
