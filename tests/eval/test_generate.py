"""Making the pictures: turns, what is recorded, and going on after any end."""

import errno
import json
import os
import random
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dcache
from dcache.errors import DcacheError
from dcache.eval.entries import UNCACHED
from dcache.eval.folder import LOCK, alone
from dcache.eval.generate import generate
from dcache.eval.specs import parse
from dcache.eval.store import Store
from dcache.eval.subject import load
from tests.eval.fake_pipeline import BLUE, RED, SETTINGS, Paint, Painter, begun, contents

METHODS = [RED, BLUE]
BATCHES = 2 * (len(METHODS) + 1)
MOST_KILLS = 200


def made(folder: Path, painter: Painter | None = None) -> Store:
    store = begun(folder, METHODS)
    generate(store, painter or Painter(), METHODS, warm_up=False)
    return store


@dataclass(frozen=True)
class Planning(Paint):
    """Its first call is observed in full, and those after it are planned."""

    calls: list[int] = field(default_factory=list)

    def observe(self, pipe: Any) -> tuple[dcache.Stats, None]:
        self.calls.append(1)
        first = len(self.calls) == 1
        reasons = {"observing": 3} if first else {"schedule": 1}
        return dcache.Stats(
            steps=3, computed=sum(reasons.values()), predicted=0 if first else 2, reasons=reasons
        ), None


def test_the_operations_of_a_planned_method_are_not_counted_in_its_observed_call(tmp_path: Path) -> None:
    planning = Planning("red", "red", paint=1)
    generate(begun(tmp_path, [planning]), Painter(), [planning])
    # Observed, counted, and the two batches of pictures.
    assert len(planning.calls) == 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The pictures of a run that nothing interrupted."""
    return contents(made(tmp_path_factory.mktemp("whole")).folder)


def ended(folder: Path, before: Callable[[], None], seconds: float = 0.0) -> int:
    """Make the pictures in a process of its own, killed by `before` or after some seconds; how it ended."""
    with warnings.catch_warnings():
        # The child touches nothing that torch's threads could hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            before()
            with alone(folder):
                made(folder)
            os._exit(0)
        finally:
            os._exit(1)
    if seconds:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def test_methods_take_turns_within_a_batch(tmp_path: Path) -> None:
    painter, told = Painter(), []
    store = begun(tmp_path, METHODS)
    count = generate(store, painter, METHODS, progress=lambda *progress: told.append(progress))
    first, second = [7, 8, 9, 10], [11, 12]
    # Twice in the first batch: once to warm up.
    assert painter.pipe.calls == [(p, first) for p in (0, 0, 1, 1, 2, 2)] + [(p, second) for p in (0, 1, 2)]
    assert count == BATCHES
    labels = ["uncached", "red", "blue"] * 2 + ["pictures"]
    assert told == [(label, done, BATCHES) for done, label in enumerate(labels)]


def test_what_is_there_is_not_made_again(tmp_path: Path, whole: dict[str, bytes]) -> None:
    folder = made(tmp_path).folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix == ".png"}
    painter = Painter()
    store = begun(folder, METHODS)
    assert generate(store, painter, METHODS) == 0
    assert painter.pipe.calls == []
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert contents(folder) == whole


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_write_it_loses_at_most_the_batch_in_flight(
    after: bool, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced, writes = Path.replace, [0]

    def count(self: Path, target: Path) -> Path:
        writes[0] += 1
        return replaced(self, target)

    monkeypatch.setattr(Path, "replace", count)
    made(tmp_path / "counted")
    pictures, manifests = len(whole), 1
    assert writes[0] == pictures + BATCHES + manifests

    for last in range(1, writes[0] + 1):
        folder, left = tmp_path / str(last), [last]

        def die(self: Path, target: Path, left: list[int] = left) -> Path:
            left[0] -= 1
            if left[0] == 0 and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            moved = replaced(self, target)
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return moved

        assert ended(folder, lambda die=die: setattr(Path, "replace", die)) == signal.SIGKILL
        records = [json.loads(path.read_text()) for path in folder.glob("calls/*/[!.]*.json")]
        there = {path: path.stat().st_mtime_ns for path in folder.glob("images/*/[!.]*.png")}
        # Pictures of one batch may be there without their record, and no others.
        assert len(there) - sum(len(record["files"]) for record in records) <= SETTINGS.batch_size
        painter = Painter()
        with alone(folder):
            store = begun(folder, METHODS)
            assert generate(store, painter, METHODS, warm_up=False) == BATCHES - len(records)
        assert contents(folder) == whole
        assert {path: path.stat().st_mtime_ns for path in there} == there
        assert all(store.complete(entry) for entry in store.methods)
        assert [path.name for path in folder.rglob(".*")] == [LOCK]


def test_killed_again_and_again_at_random_it_comes_to_an_end(tmp_path: Path, whole: dict[str, bytes]) -> None:
    draw, kills, pause = random.Random(5), 0, 0.001
    while ended(tmp_path, lambda: None, pause) == signal.SIGKILL and kills < MOST_KILLS:
        kills += 1
        # Longer and longer, so that a slow machine gets through a batch as well.
        pause = draw.uniform(0.005, 0.04) * 1.1**kills
        assert contents(tmp_path).items() <= whole.items()
    assert contents(tmp_path) == whole
    assert 0 < kills < MOST_KILLS


def test_a_full_disk_is_told_and_what_was_finished_stays(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    written, room = Path.write_bytes, [7]

    def fill(self: Path, data: bytes) -> int:
        if room[0] == 0:
            written(self, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= 1
        return written(self, data)

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(
        DcacheError, match=r"cannot write .*\.png: No space left on device.*same command again"
    ):
        made(tmp_path)
    monkeypatch.undo()
    there = contents(tmp_path)
    assert len(there) == 7
    assert there.items() <= whole.items()
    assert generate(begun(tmp_path, METHODS), Painter(), METHODS, warm_up=False) == BATCHES - 1
    assert contents(tmp_path) == whole


def test_two_processes_make_the_pictures_of_one(tmp_path: Path, whole: dict[str, bytes]) -> None:
    painters = Painter(), Painter()
    for index, painter in enumerate(painters):
        store = begun(tmp_path, METHODS, replace(SETTINGS, batch_size=2))
        generate(store, painter, METHODS, warm_up=False, process=(index, 2))
    assert contents(tmp_path) == whole
    batches = [sorted({tuple(seeds) for _, seeds in painter.pipe.calls}) for painter in painters]
    assert batches == [[(7, 8), (11, 12)], [(9, 10)]]


def test_a_call_is_recorded(tmp_path: Path) -> None:
    store = begun(tmp_path)
    generate(store, Painter(), [RED])
    full, rest = store.calls(store.methods[1])
    assert full["files"] == [item.file for item in store.batches[0]]
    assert (full["warm"], rest["warm"]) == (True, False)
    assert (full["flops"], rest["flops"]) == (0, None)
    assert (full["broken"], full["warnings"], full["computed"]) == (None, [], None)
    assert full["seconds"] > 0


def test_without_a_warm_up_the_first_call_of_a_size_is_not_warm(tmp_path: Path) -> None:
    store = begun(tmp_path, (), replace(SETTINGS, images_per_prompt=3))
    generate(store, Painter(), [], warm_up=False)
    assert [call["warm"] for call in store.calls(store.methods[0])] == [False, True, False]
    assert {call["flops"] for call in store.calls(store.methods[0])} == {None}


def test_broken_pictures_are_recorded_and_stored_as_diffusers_would(tmp_path: Path) -> None:
    painter = Painter()
    whole_picture = painter.picture

    def broken(prompt: str, seed: int, paint: int) -> np.ndarray:
        picture = whole_picture(prompt, seed, paint)
        picture[0, 0, 0] = np.nan if paint and seed == 8 else 2.0
        return picture

    painter.picture = broken  # type: ignore[method-assign]
    store = begun(tmp_path)
    generate(store, painter, [RED], warm_up=False)
    uncached, red = store.methods
    assert [call["broken"] for call in store.calls(uncached)] == [None, None]
    assert [call["broken"] for call in store.calls(red)] == ["1 of 4 pictures contain NaN or infinity", None]
    assert store.picture(red, store.items[0])[0, 0, 0] == 255
    assert store.picture(red, store.items[1])[0, 0, 0] == 0


def test_clips_are_stored_whole(tmp_path: Path) -> None:
    painter = Painter(shape=(3, 8, 8, 3))
    store = begun(tmp_path, ())
    generate(store, painter, [], warm_up=False)
    expected = np.stack([painter.picture(i.prompt, i.seed, 0) for i in store.items])
    assert np.array_equal(store.pictures(store.methods[0], store.items), np.round(expected * 255))


def test_the_shipped_model_leaves_traces_that_replay(tmp_path: Path) -> None:
    subject = load("demo", steps=4, device="cpu")
    methods = parse("interval:interval=2")
    prompts = ["a large striped red circle at the top left on a blue background"] * 2
    store = begun(tmp_path, methods, replace(SETTINGS, images_per_prompt=1, batch_size=1), prompts)
    generate(store, subject, methods, warm_up=False)
    entry = store.entry(methods[0])
    schedule = store.schedule(entry)
    assert isinstance(schedule, dcache.Schedule)
    assert [call["computed"] for call in store.calls(entry)] == [0.5, 0.5]
    with dcache.enabled(subject.pipe, schedule):
        again = subject([prompts[0]], [7])
    assert np.array_equal(np.round(again[0] * 255), store.picture(entry, store.items[0]))
    assert store.entry(UNCACHED).folder == "uncached"
    assert store.schedule(store.entry(UNCACHED)) is None
