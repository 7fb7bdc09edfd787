"""The folder of an evaluation: what is in it, what is noticed, what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.eval.entries import UNCACHED
from dcache.eval.folder import alone
from dcache.eval.generate import generate
from dcache.eval.images import decode, encode
from dcache.eval.manifest import FILE, Manifest
from dcache.eval.settings import Settings
from dcache.eval.store import Store
from tests.eval.fake_pipeline import BLUE, PROMPTS, RED, SETTINGS, Paint, Painter, begun


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = begun(tmp_path)
    generate(store, Painter(), [RED], warm_up=False)
    return store


@pytest.mark.parametrize("shape", [(5, 7, 3), (4, 5, 7, 3)])
def test_pictures_and_clips_come_back_as_they_were(shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (tmp_path / "a.png").write_bytes(encode(pixels))
    assert np.array_equal(decode(tmp_path / "a.png"), pixels)


def test_a_clip_that_stands_still_keeps_its_frames(tmp_path: Path) -> None:
    clip = np.zeros((5, 8, 8, 3), np.uint8)
    clip[3:, 2, 2] = 200
    (tmp_path / "a.png").write_bytes(encode(clip))
    assert np.array_equal(decode(tmp_path / "a.png"), clip)


def test_items_go_prompt_after_prompt_with_a_seed_each(store: Store) -> None:
    assert [(i.prompt_index, i.prompt, i.seed) for i in store.items] == [
        (0, "a red fox", 7), (0, "a red fox", 8), (1, "a blue bird", 9),
        (1, "a blue bird", 10), (2, "a red fox", 11), (2, "a red fox", 12),
    ]  # fmt: skip
    assert [len(batch) for batch in store.batches] == [4, 2]
    assert len({item.file for item in store.items}) == len(store.items)


def test_pictures_are_those_of_prompt_seed_and_method(store: Store) -> None:
    painter = Painter()
    for entry, paint in zip(store.methods, (0, 1), strict=True):
        expected = [painter.picture(i.prompt, i.seed, paint) for i in store.items]
        assert np.array_equal(store.pictures(entry, store.items), np.round(np.stack(expected) * 255))


def test_it_opens_as_it_was_written(store: Store) -> None:
    again = Store.open(store.folder)
    assert again.manifest == store.manifest
    assert again.items == store.items
    assert [(e.folder, e.label, e.digest) for e in again.methods] == [
        ("uncached", "uncached", UNCACHED.digest),
        ("red-00000000", "red", "000000000001"),
    ]
    assert again.settings["steps"] == 3
    assert all(again.complete(entry) for entry in again.methods)
    assert again.schedule(again.methods[0]) is None


@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_a_damaged_picture_is_noticed_and_only_it_is_made_again(store: Store, harm: str) -> None:
    red, item = store.entry(RED), store.items[1]
    path = store.picture_path(red, item)
    right, others = path.read_bytes(), set(store.folder.rglob("*.png")) - {path}
    before = {other: other.stat().st_mtime_ns for other in others}
    if harm == "gone":
        path.unlink()
        assert not store.complete(red)
    else:
        path.write_bytes(right[: len(right) // 2] if harm == "cut" else right[:60] + b"x" + right[61:])
    assert not store.sound(red, 0)
    assert store.sound(red, 1)
    with pytest.raises(DcacheError, match="makes missing and damaged pictures again"):
        store.picture(red, item)
    painter = Painter()
    assert generate(store, painter, [RED], warm_up=False) == 1
    assert painter.pipe.calls == [(1, [7, 8, 9, 10])]
    assert path.read_bytes() == right
    assert {other: other.stat().st_mtime_ns for other in others} == before
    assert store.sound(red, 0)


def test_a_damaged_record_is_as_good_as_none(store: Store) -> None:
    red = store.entry(RED)
    record = store.folder / "calls" / red.folder / "00001.json"
    record.write_text(record.read_text()[:30])
    assert not store.complete(red)
    assert len(store.calls(red)) == 1
    pictures = {path: path.stat().st_mtime_ns for path in store.folder.rglob("*.png")}
    assert generate(store, Painter(), [RED], warm_up=False) == 1
    assert store.complete(red)
    assert {path: path.stat().st_mtime_ns for path in store.folder.rglob("*.png")} == pictures


def test_methods_may_be_added_and_a_changed_one_is_another(store: Store) -> None:
    more = begun(store.folder, [BLUE, RED, Paint("red", "red", paint=3 << 16)])
    assert [(e.folder, e.label) for e in more.methods] == [
        ("uncached", "uncached"),
        ("red-00000000", "red"),
        ("blue-00000000", "blue"),
        ("red-00000003", "red 0000"),
    ]
    assert [more.complete(entry) for entry in more.methods] == [True, True, False, False]
    assert [entry.label for entry in more.finished().methods] == ["uncached", "red"]
    assert [entry.label for entry in more.methods][2:] == ["blue", "red 0000"]


def test_without_uncached_pictures_nothing_is_finished(tmp_path: Path) -> None:
    with pytest.raises(DcacheError, match=r"uncached pictures are missing .* run the generate stage"):
        begun(tmp_path).finished()


def test_other_settings_are_refused_with_each_that_differs(store: Store) -> None:
    before = (store.folder / FILE).read_bytes()
    other = replace(SETTINGS, seed=8, steps=None, options={"eta": 0.5}, device="cuda")
    with pytest.raises(DcacheError) as refused:
        begun(store.folder, [BLUE], other, PROMPTS[:2])
    lines = str(refused.value).splitlines()
    assert lines[0] == f"{store.folder} holds an evaluation with other settings:"
    assert [line.strip().partition(":")[0] for line in lines[1:-1]] == [
        "prompts", "seed", "steps", "device", "options",
    ]  # fmt: skip
    assert "  seed: expected 7, got 8" in lines
    assert "  steps: expected 3, got the pipeline's default" in lines
    assert "another folder" in lines[-1]
    assert (store.folder / FILE).read_bytes() == before


def test_going_on_with_other_hardware_is_noted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert begun(store.folder).manifest.notes == []
    monkeypatch.setattr("dcache.eval.manifest.machine", lambda: {**store.manifest.machine, "threads": 77})
    for _ in range(2):
        (note,) = begun(store.folder).manifest.notes
        assert note.startswith("continued with threads 77")


@pytest.mark.parametrize("content", [None, "{", "[]", '{"format": "other", "version": 1}'])
def test_what_is_no_evaluation_is_told(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / FILE).write_text(content)
    with pytest.raises(DcacheError, match=r"holds no evaluation|is damaged|not written by this release"):
        Store.open(tmp_path)


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(DcacheError, match="another run is writing"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_leftovers_of_a_killed_run_are_swept_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "uncached"
    folder.mkdir(parents=True)
    # Somebody's own files too, where the folder is one that they work in.
    kept = [folder / ".DS_Store", folder / "a.png", tmp_path / ".env.template", tmp_path / ".a.ab_12xyz.png"]
    swept = [folder / ".dcache-5f2a-7.ab_12xyz.png", tmp_path / ".dcache-run.ab_12xyz.json"]
    for path in kept + swept:
        path.touch()
    with alone(tmp_path):
        assert all(path.exists() for path in kept)
        assert not any(path.exists() for path in swept)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"steps": 0}, "steps must be a whole number between 1"),
        ({"seed": -1}, "seed must be a whole number between 0"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"height": 64.0}, "height must be a whole number"),
        ({"guidance": float("nan")}, "guidance must be a number of at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object], expected: str) -> None:
    with pytest.raises(DcacheError, match=expected):
        Settings(**wrong)  # type: ignore[arg-type]


def test_settings_are_json_and_name_what_was_given() -> None:
    settings = Settings(steps=4, device="cuda:1", options={"b": [1, 2], "a": "x"})
    assert json.loads(json.dumps(settings.content())) == settings.content()
    assert settings.given() == {"steps": 4, "device": "cuda", "options": {"a": "x", "b": "[1, 2]"}}
    assert Settings().given() == {}


def test_a_manifest_names_the_pipeline_as_it_is(store: Store) -> None:
    assert store.entry(UNCACHED) == store.methods[0]
    assert Manifest.read(store.folder).prompts == PROMPTS
