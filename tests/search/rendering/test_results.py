"""Results outlive a kill: what was made is not made again, and a calibration that goes on ends the same."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dcache.errors import DcacheError
from dcache.eval.entries import UNCACHED
from dcache.search.calibrate import calibrate
from dcache.search.fitting.latency_model import LinearLatency, Timer
from dcache.search.observe import observe
from dcache.search.rendering.render import Renderer
from dcache.search.rendering.results import Results, resumable
from tests.eval.fake_pipeline import Painter
from tests.pipelines import PIXART
from tests.search.pipeline_subjects import Shaped, shaped

ABOUT = {"seed": 1}


class Killed(BaseException):
    """What a kill looks like to the code that it hits."""


@contextmanager
def killed(out: Path) -> Iterator[Results]:
    """Results of work that is killed at the end of the block, if not before."""
    with suppress(Killed), resumable(out, ABOUT) as results:
        yield results
        raise Killed


def dies_after(subject: Shaped, calls: int) -> list[int]:
    """Let a subject be killed in the call after so many; returns the list that its calls are added to."""
    counted: list[int] = []

    class Mortal(type(subject)):  # type: ignore[misc]
        def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.float32]:
            if len(counted) == calls:
                raise Killed
            counted.append(len(seeds))
            return super().__call__(prompts, seeds)

    subject.__class__ = Mortal
    return counted


def test_what_was_made_is_not_made_again(tmp_path: Path) -> None:
    out, numbers = tmp_path / "x.json", iter(range(100))
    array = np.array([1.5, np.nan, -np.inf], np.float32)
    with killed(out) as results:
        assert results.number("a", lambda: next(numbers)) == 0
        assert results.number("b", lambda: next(numbers)) == 1
        np.testing.assert_array_equal(results.arrays("c", lambda: {"x": array})["x"], array)
    with killed(out) as results:
        assert results.known == 3
        assert (results.has("a"), results.has("c"), results.has_arrays("c")) == (True, False, True)
        assert results.number("b", lambda: next(numbers)) == 1
        np.testing.assert_array_equal(results.arrays("c", lambda: pytest.fail("made again"))["x"], array)
    with (
        pytest.raises(DcacheError, match=r"is of another calibration: seed differ.*delete it"),
        resumable(out, {"seed": 2}),
    ):
        pass
    with resumable(out, ABOUT) as results:
        assert results.known == 3
    # It ended well: the folder is gone.
    assert list(tmp_path.iterdir()) == []


def full_disk() -> DcacheError:
    """What is raised where a file does not fit."""
    error = DcacheError("cannot write x.json: No space left on device")
    error.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return error


def ends(out: Path, error: BaseException, measured: int = 1) -> None:
    """Work that measures something and ends with an error."""
    with resumable(out, ABOUT) as results:
        for i in range(measured):
            results.number(str(i), lambda: 1)
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory"), full_disk()])
def test_what_was_interrupted_goes_on_and_says_so(error: BaseException, tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    with pytest.raises(type(error)) as caught:
        ends(out, error)
    folder = tmp_path / "x.json.resume"
    assert caught.value.__notes__ == [f"What was measured is kept: the same command goes on from {folder}"]
    with resumable(out, ABOUT) as results:
        assert results.has("0")


@pytest.mark.parametrize(("error", "measured"), [(DcacheError("at most 1.35"), 1), (KeyboardInterrupt(), 0)])
def test_what_was_refused_or_measured_nothing_leaves_nothing(
    error: BaseException, measured: int, tmp_path: Path
) -> None:
    with pytest.raises(type(error)) as caught:
        ends(tmp_path / "x.json", error, measured)
    assert not hasattr(caught.value, "__notes__")
    assert list(tmp_path.iterdir()) == []


def test_what_was_refused_stays_where_it_serves_another_setting(tmp_path: Path) -> None:
    out, folder = tmp_path / "x.json", tmp_path / "x.json.resume"

    def refused() -> None:
        with resumable(out, ABOUT, "speedup") as results:
            results.number("a", lambda: 1)
            raise DcacheError("at most 1.35")

    with pytest.raises(DcacheError) as caught:
        refused()
    assert caught.value.__notes__ == [
        f"What was measured is kept: with another speedup the command goes on from {folder}"
    ]
    with resumable(out, ABOUT, "speedup") as results:
        assert results.has("a")
    assert list(tmp_path.iterdir()) == []


def test_torn_arrays_are_made_again_and_files_of_others_stay(tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    with killed(out) as results:
        results.arrays("c", lambda: {"x": np.arange(100.0)})
    folder = tmp_path / "x.json.resume"
    (file,) = folder.glob("*.npz")
    (folder / "mine.txt").write_text("kept")
    for size in (0, 10, file.stat().st_size - 1):
        file.write_bytes(file.read_bytes()[:size])
        with killed(out) as results:
            assert not results.has_arrays("c")
            assert results.arrays("c", lambda: {"x": np.arange(100.0)})["x"][99] == 99.0
    with resumable(out, ABOUT):
        pass
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_pictures_that_would_fill_the_disk_are_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with resumable(tmp_path / "x.json", ABOUT) as results:
        usage = type("Usage", (), {"free": 1 << 20})
        monkeypatch.setattr("dcache.search.rendering.results.shutil.disk_usage", lambda _path: usage)
        assert results.arrays("c", lambda: {"x": np.zeros(3)})["x"].sum() == 0
        assert not results.has_arrays("c")


def test_a_renderer_goes_on_call_by_call(tmp_path: Path) -> None:
    painter, out = Painter(), tmp_path / "x.json"
    prompts = ["a", "b", "c", "d", "e"]
    with killed(out) as results:
        kill = iter([None, None])

        def before() -> None:
            if next(kill, "now"):
                raise Killed

        painter.pipe.before = before
        Renderer(painter, prompts, batch_size=2, results=results, part="p")
    assert [seeds for _, seeds in painter.pipe.calls] == [[0, 1], [2, 3]]
    painter.pipe.before = lambda: None
    with resumable(out, ABOUT) as results:
        renderer = Renderer(painter, prompts, batch_size=2, results=results, part="p")
        assert [seeds for _, seeds in painter.pipe.calls] == [[0, 1], [2, 3], [4]]
        np.testing.assert_array_equal(renderer.reference, Renderer(painter, prompts).reference)


def test_timings_go_on_after_a_warm_up(tmp_path: Path) -> None:
    painter = Painter()
    with killed(tmp_path / "x.json") as results:
        first = Timer(results).medians(painter, "s", [UNCACHED], ["a"], 0, 1)
    with resumable(tmp_path / "x.json", ABOUT) as results:
        calls = len(painter.pipe.calls)
        assert Timer(results).medians(painter, "s", [UNCACHED], ["a"], 0, 1) == first
        assert len(painter.pipe.calls) == calls
        Timer(results).medians(painter, "s", [UNCACHED], ["a"], 0, 2)
        # A warm-up, and the timed call that was missing.
        assert len(painter.pipe.calls) == calls + 2


def calibrated(subject: Shaped, results: Results | None = None) -> Any:
    return calibrate(subject, ["1", "2", "3"], 2.0, budget=2, repeats=1, results=results)


def a_calibration_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch, kills: int) -> None:
    monkeypatch.setattr("dcache.search.calibrate.fit_latency", lambda *_: LinearLatency(6, 10.0, 2.0))
    monkeypatch.setattr("dcache.search.calibrate.measured_speedup", lambda *_: 2.0)
    whole = shaped(PIXART)
    counted = dies_after(whole, 10**6)
    with resumable(folder / "whole.json", ABOUT) as results:
        expected = calibrated(whole, results)
    for kill in range(1, kills + 1):
        calls = 2 + kill * (len(counted) - 3) // (kills + 1)
        out = folder / f"{calls}.json"
        stopped = shaped(PIXART)
        dies_after(stopped, calls)
        with killed(out) as results:
            calibrated(stopped, results)
        again = shaped(PIXART)
        rest = dies_after(again, 10**6)
        with resumable(out, ABOUT) as results:
            ended = calibrated(again, results)
        assert ended.schedule.digest() == expected.schedule.digest()
        figures = (ended.placed, ended.fitted, ended.rendered)
        assert figures == (expected.placed, expected.fitted, expected.rendered)
        # Two calls look at the pipeline at the start of every run; no other is made twice.
        assert len(rest) == len(counted) - calls + 2


def test_a_calibration_that_goes_on_ends_as_if_it_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_calibration_goes_on(tmp_path, monkeypatch, 1)


@pytest.mark.slow
def test_a_calibration_that_is_killed_anywhere_ends_as_if_it_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_calibration_goes_on(tmp_path, monkeypatch, 10)


def test_an_observation_that_goes_on_ends_as_if_it_never_stopped(tmp_path: Path) -> None:
    def seen(subject: Shaped, results: Results | None = None) -> Any:
        return observe(subject, ["1", "2", "3"], sites=["auto"], timing=False, results=results)

    whole = shaped(PIXART)
    counted = dies_after(whole, 10**6)
    expected = seen(whole)
    assert len(counted) == 4
    for calls in (2, 3):
        out = tmp_path / f"{calls}.safetensors"
        stopped = shaped(PIXART)
        dies_after(stopped, calls)
        with killed(out) as results:
            seen(stopped, results)
        again = shaped(PIXART)
        rest = dies_after(again, 10**6)
        with resumable(out, ABOUT) as results:
            ended = seen(again, results)
        # The size of the features is measured anew: that run also settles what the engine reads.
        assert len(rest) == 4 - calls + 1
        for site in expected.sites:
            for part in ("gram", "distance", "size"):
                np.testing.assert_array_equal(
                    getattr(ended.tables(site), part), getattr(expected.tables(site), part)
                )
        np.testing.assert_array_equal(ended.ratios, expected.ratios)
