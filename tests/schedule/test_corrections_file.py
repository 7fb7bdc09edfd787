"""Corrections in a file beside the schedule: what is written, what comes back, what is refused."""

import json
import random

import pytest
import torch

from dcache.errors import DcacheError
from dcache.predictors.corrections import Corrections
from dcache.schedule import Plan, Schedule
from tests.schedule.corrected_schedules import ROW, corrected_schedule, edited, entry, tables


def test_a_file_gives_the_same_schedule_back(tmp_path):
    made = corrected_schedule(sigmas=tuple(1 - i / 6 for i in range(7)))
    path = made.save(tmp_path / "a.schedule.json")
    (beside,) = (p for p in tmp_path.iterdir() if p != path)
    assert beside.name.startswith("a.schedule-")
    assert beside.suffix == ".safetensors"
    loaded = Schedule.load(path)
    assert loaded == made
    assert loaded.digest() == made.digest()
    row = loaded.components["transformer"].corrections.table["trunk"][4]
    assert torch.equal(row.scale, entry(anchor=3, seed=3).scale)
    assert row.anchor == 3
    assert loaded.save(path).read_bytes() == path.read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_of_several_denoisers_and_sites_each_gets_its_own_back(tmp_path):
    rows = {"attn:0": ROW, "mlp:0": ROW}
    one = Corrections(
        {"mlp:0": {1: entry(2, seed=5)}, "attn:0": {2: entry(4, seed=6)}}, {"mlp:0": -1, "attn:0": 1}
    )
    made = Schedule(
        6,
        {
            "": Plan({"*": rows}),
            "b": Plan({"*": rows}, corrections=one),
            "c": Plan({"*": {"trunk": ROW}}, corrections=tables()),
        },
    )
    assert Schedule.load(made.save(tmp_path / "s.json")) == made


def test_what_was_written_before_is_readable_until_it_is_replaced(tmp_path, monkeypatch):
    path = corrected_schedule().save(tmp_path / "s.json")
    other = corrected_schedule(Corrections({"trunk": {1: entry(seed=9)}}, {"trunk": -1}))

    def fails(self, *args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.write_text", fails)
    with pytest.raises(KeyboardInterrupt):
        other.save(path)
    monkeypatch.undo()
    assert Schedule.load(path) == corrected_schedule()
    other.save(path)
    assert Schedule.load(path) == other


@pytest.fixture
def written(tmp_path):
    path = corrected_schedule().save(tmp_path / "s.json")
    (beside,) = (p for p in tmp_path.iterdir() if p != path)
    return path, beside


def test_missing_or_changed_numbers_are_refused(written):
    path, beside = written
    data = beside.read_bytes()
    rng = random.Random(0)
    for _ in range(60):
        i = rng.randrange(len(data))
        beside.write_bytes(data[:i] + bytes([data[i] ^ 1 << rng.randrange(8)]) + data[i + 1 :])
        with pytest.raises(DcacheError, match="digest differs"):
            Schedule.load(path)
    for cut in (0, 7, len(data) // 2, len(data) - 1):
        beside.write_bytes(data[:cut])
        with pytest.raises(DcacheError, match="digest differs"):
            Schedule.load(path)
    beside.unlink()
    with pytest.raises(DcacheError, match=f"{beside.name}, which must lie beside it"):
        Schedule.load(path)
    beside.mkdir()
    with pytest.raises(DcacheError, match="cannot be read"):
        Schedule.load(path)


NAMES = ["../s.safetensors", "/etc/x.safetensors", "a/b.safetensors", "a\\b.safetensors", "a\0.safetensors"]


@pytest.mark.parametrize("name", [*NAMES, "C:x.safetensors", "s.pt", "..", "", None, 3])
def test_only_a_plain_name_beside_the_schedule_is_followed(written, name):
    path, beside = written
    (path.parent.parent / "s.safetensors").write_bytes(beside.read_bytes())
    edited(path, lambda content: content["tables"].update(file=name))
    with pytest.raises(DcacheError, match=r"without a folder|need .tables."):
        Schedule.load(path)


def set_site(**changed):
    return lambda c: c["components"]["transformer"]["corrections"]["sites"]["trunk"].update(changed)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("tables"), "needs both"),
        (lambda c: c["components"]["transformer"].pop("corrections"), "needs both"),
        (lambda c: c.update(tables=[]), "need .tables."),
        (lambda c: c["tables"].update(more=1), "need .tables."),
        (lambda c: c["components"]["transformer"].update(corrections=3), "do not fit"),
        (lambda c: c["components"]["transformer"]["corrections"].update(digest="0"), "digests differ"),
        (set_site(channels=4), r"expected \(3, 4\)"),
        (set_site(evaluations=[1, 2]), r"expected \(2, 3\)"),
        (set_site(evaluations=[1, 2, 5]), "digests differ"),
        (set_site(evaluations=[1, 2, "4"]), "earlier evaluation|do not fit"),
        (set_site(anchors=[0, 0, 4]), "earlier evaluation"),
        (set_site(anchors=[0, 0]), "2 anchors, expected"),
        (set_site(dim="x"), "do not fit"),
        (set_site(dim=1), "digests differ"),
    ],
)
def test_what_the_schedule_tells_of_the_numbers_must_be_true(written, change, says):
    path, _ = written
    edited(path, change)
    with pytest.raises(DcacheError, match=says):
        Schedule.load(path)


def test_numbers_with_a_true_digest_are_checked_too(written):
    import hashlib

    from safetensors.torch import load, save

    path, beside = written
    arrays = load(beside.read_bytes())
    arrays["0.0.scale"][1, 1] = float("nan")
    beside.write_bytes(save(arrays))
    edited(path, lambda c: c["tables"].update(sha256=hashlib.sha256(beside.read_bytes()).hexdigest()))
    with pytest.raises(DcacheError, match="evaluation 2 holds NaN"):
        Schedule.load(path)
    beside.write_bytes(b"no tensors")
    edited_again = json.loads(path.read_text())
    edited_again["tables"]["sha256"] = hashlib.sha256(b"no tensors").hexdigest()
    path.write_text(json.dumps(edited_again))
    with pytest.raises(DcacheError, match="no safetensors file"):
        Schedule.load(path)
