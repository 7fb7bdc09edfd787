"""Corrections as values and as files: what they refuse, what belongs together, what is written."""

import json
import random
from dataclasses import replace

import pytest
import torch

from dcache.errors import DcacheError
from dcache.methods.replay import replay
from dcache.predictors.corrections import Correction, Corrections
from dcache.schedule import Plan, Schedule

ROW = (True, False, False, True, False, False)


def entry(channels=3, anchor=0, seed=0):
    numbers = torch.randn(2, channels, generator=torch.Generator().manual_seed(seed))
    return Correction(numbers[0], numbers[1], anchor)


def tables():
    rows = {1: entry(seed=1), 2: entry(seed=2), 4: entry(anchor=3, seed=3)}
    return Corrections({"trunk": rows}, {"trunk": -1})


def schedule(corrections=None, **more):
    return Schedule(
        6, {"transformer": Plan({"*": {"trunk": ROW}}, corrections=corrections or tables())}, **more
    )


def test_equal_tables_are_equal_and_any_number_makes_another():
    assert tables() == tables()
    assert hash(tables()) == hash(tables())
    assert repr(tables()) == f"Corrections(trunk: {tables().digest})"
    nudged = entry(seed=1)
    nudged.shift[2] += 1e-6
    others = [
        Corrections({"trunk": {**tables().table["trunk"], 1: nudged}}, {"trunk": -1}),
        Corrections({"trunk": {**tables().table["trunk"], 2: entry(seed=2, anchor=1)}}, {"trunk": -1}),
        Corrections(tables().table, {"trunk": 1}),
        Corrections({"block:0": tables().table["trunk"]}, {"block:0": -1}),
    ]
    assert len({c.digest for c in [tables(), *others]}) == 5


@pytest.mark.parametrize(
    ("table", "dims", "says"),
    [
        ({"nose": {1: entry()}}, {"nose": -1}, "such as 'trunk'"),
        ({"guidance": {1: entry()}}, {"guidance": -1}, "such as 'trunk'"),
        ({"trunk": {1: entry()}}, {}, "dimension of its channels, got None"),
        ({"trunk": {1: entry()}}, {"trunk": 9}, "dimension of its channels, got 9"),
        ({"trunk": {1: entry(anchor=1)}}, {"trunk": -1}, "must stand on an earlier evaluation, got 1"),
        ({"trunk": {1: entry(anchor=-1)}}, {"trunk": -1}, "earlier evaluation"),
        ({"trunk": {1: entry(), 2: entry(4)}}, {"trunk": -1}, "evaluation 2 needs 3 float32"),
        ({"trunk": {1: entry(0)}}, {"trunk": -1}, "needs 0 float32"),
        (
            {"trunk": {1: Correction(torch.ones(3), torch.ones(3, dtype=torch.float64), 0)}},
            {"trunk": -1},
            "of torch.float64",
        ),
        (
            {"trunk": {1: Correction(torch.ones(3), torch.full((3,), float("nan")), 0)}},
            {"trunk": -1},
            "evaluation 1 holds NaN or infinity",
        ),
    ],
)
def test_tables_that_make_no_sense_are_refused(table, dims, says):
    with pytest.raises(DcacheError, match=says):
        Corrections(table, dims)


def test_a_schedule_has_corrections_of_its_own_sites_and_evaluations_only():
    with pytest.raises(DcacheError, match=r"corrections for 'block:0'"):
        schedule(Corrections({"block:0": {1: entry()}}, {"block:0": -1}))
    with pytest.raises(DcacheError, match="evaluations below 6"):
        schedule(Corrections({"trunk": {6: entry()}}, {"trunk": -1}))


def test_canonical_keeps_what_a_prediction_stands_on():
    kept = Corrections({"trunk": {1: entry(), 5: entry(anchor=3)}}, {"trunk": -1})
    # Evaluation 3 is computed, and 4 is predicted from 3, not from 0.
    more = {**kept.table["trunk"], 3: entry(), 4: entry(anchor=0)}
    made = schedule(Corrections({"trunk": more}, {"trunk": -1})).canonical()
    assert made.components["transformer"].corrections == kept
    assert made.canonical() == made
    none = schedule(Corrections({"trunk": {3: entry()}}, {"trunk": -1})).canonical()
    assert none.components["transformer"].corrections is None


def test_corrections_and_levels_decide_the_pictures_and_so_the_digest():
    plain = replace(schedule(), components={"transformer": Plan({"*": {"trunk": ROW}})})
    levels = tuple(1 - i / 6 for i in range(7))
    made = [plain, schedule(), schedule(sigmas=levels), schedule(sigmas=levels[:-1])]
    assert len({s.digest() for s in made}) == 4
    assert schedule().canonical().digest() == schedule().digest()


def test_stretching_is_refused_and_replay_hands_on():
    levels = tuple(1 - i / 6 for i in range(7))
    assert schedule().stretch(6) == schedule()
    with pytest.raises(DcacheError, match="belong to its 6 evaluations"):
        schedule().stretch(12)
    with pytest.raises(DcacheError, match="belong to its 6 evaluations"):
        Schedule.of_steps([0], 6).stretch(6).__class__(
            6, {"": Plan({"*": {"trunk": ROW}})}, sigmas=levels
        ).stretch(3)
    method = replay(schedule(sigmas=levels))
    assert (method.corrections, method.sigmas) == (tables(), levels)


# Files --------------------------------------------------------------------------------------------


def test_a_file_gives_the_same_schedule_back(tmp_path):
    made = schedule(sigmas=tuple(1 - i / 6 for i in range(7)))
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
    path = schedule().save(tmp_path / "s.json")
    other = schedule(Corrections({"trunk": {1: entry(seed=9)}}, {"trunk": -1}))

    def fails(self, *args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.write_text", fails)
    with pytest.raises(KeyboardInterrupt):
        other.save(path)
    monkeypatch.undo()
    assert Schedule.load(path) == schedule()
    other.save(path)
    assert Schedule.load(path) == other


@pytest.fixture
def written(tmp_path):
    path = schedule().save(tmp_path / "s.json")
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


def edited(path, change):
    content = json.loads(path.read_text())
    del content["checksum"]
    change(content)
    path.write_text(json.dumps(content))


NAMES = ["../s.safetensors", "/etc/x.safetensors", "a/b.safetensors", "a\\b.safetensors", "a\0.safetensors"]


@pytest.mark.parametrize("name", [*NAMES, "C:x.safetensors", "s.pt", "..", "", None, 3])
def test_only_a_plain_name_beside_the_schedule_is_followed(written, name):
    path, beside = written
    (path.parent.parent / "s.safetensors").write_bytes(beside.read_bytes())
    edited(path, lambda content: content["tables"].update(file=name))
    with pytest.raises(DcacheError, match=r"named plainly|need .tables."):
        Schedule.load(path)


def set_site(**changed):
    return lambda c: c["components"]["transformer"]["corrections"]["sites"]["trunk"].update(changed)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("tables"), "belong together"),
        (lambda c: c["components"]["transformer"].pop("corrections"), "belong together"),
        (lambda c: c.update(tables=[]), "need .tables."),
        (lambda c: c["tables"].update(more=1), "need .tables."),
        (lambda c: c["components"]["transformer"].update(corrections=3), "does not fit"),
        (lambda c: c["components"]["transformer"]["corrections"].update(digest="0"), "digests differ"),
        (set_site(channels=4), r"told to be \(3, 4\)"),
        (set_site(evaluations=[1, 2]), r"told to be \(2, 3\)"),
        (set_site(evaluations=[1, 2, 5]), "digests differ"),
        (set_site(evaluations=[1, 2, "4"]), "earlier evaluation|does not fit"),
        (set_site(anchors=[0, 0, 4]), "earlier evaluation"),
        (set_site(anchors=[0, 0]), "told to be"),
        (set_site(dim="x"), "does not fit"),
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


@pytest.mark.parametrize("sigmas", [[1, 0.5], "x", [1, 0.8, 0.6, 0.4, 0.2, None], [1] * 6, [2.0, *[0.1] * 5],
                                    [float("nan")] * 6, [True] * 6, {"a": 1}, 10**30])  # fmt: skip
def test_noise_levels_of_a_file_are_checked(tmp_path, sigmas):
    path = Schedule.of_steps([0], 6).save(tmp_path / "s.json")
    edited(path, lambda content: content.update(sigmas=sigmas))
    with pytest.raises(DcacheError, match=r"noise levels|sigmas"):
        Schedule.load(path)
