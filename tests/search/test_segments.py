"""The error of a segment is that of pictures in which it alone is predicted, by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dcache
from dcache.cli import main
from dcache.errors import DcacheError
from dcache.profile import Profile
from dcache.schedule import Schedule
from dcache.search.importance import BROKEN
from dcache.search.observe import observe
from dcache.search.rendering.render import Renderer
from dcache.search.rendering.results import resumable
from dcache.search.segments import count_of, with_segments
from tests.pipelines import PIXART, STEPS
from tests.search.pipeline_subjects import Shaped, shaped


@pytest.fixture(scope="module")
def seen() -> tuple[Shaped, Profile]:
    """A small pipeline, observed."""
    subject = shaped(PIXART)
    return subject, observe(subject, ["1"], sites=("trunk", "mlp:0"), timing=False)


def calls_of(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The prompts of every call from now on."""
    calls: list[Sequence[str]] = []
    call = Shaped.__call__

    def counted(self: Shaped, prompts: Sequence[str], seeds: Sequence[int]) -> Any:
        calls.append(prompts)
        return call(self, prompts, seeds)

    monkeypatch.setattr(Shaped, "__call__", counted)
    return calls


def test_segments_are_counted() -> None:
    # 15 evaluations are followed by five or more, the others by 4, 3, 2, 1 and none.
    assert count_of(20, 5) == 15 * 5 + 4 + 3 + 2 + 1
    assert count_of(3, 9) == 2 + 1
    assert count_of(1, 5) == 0


def test_an_error_is_that_of_the_pictures_and_every_segment_takes_one_run(
    seen: tuple[Shaped, Profile], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subject, profile = seen
    calls, stages = calls_of(monkeypatch), list[str]()
    with resumable(tmp_path / "some.safetensors", {}) as results:
        given: dict[str, Any] = {"longest": 2, "seed": 3, "results": results, "progress": stages.append}
        measured = with_segments(subject, profile, ["1", "2"], **given)
        # Five evaluations are followed by two or more of seven, one by one; and the uncached run.
        assert calls == [["1", "2"]] * (STEPS * 2 - 3 + 1)
        assert stages[-1] == "segments: run 11 of 11"
        again = with_segments(subject, profile, ["1", "2"], **given)
        assert len(calls) == STEPS * 2 - 3 + 1
    assert measured.segments is not None
    assert again.segments is not None
    np.testing.assert_array_equal(again.segments, measured.segments)
    assert measured.made["segments"] == {"prompts": 2}
    missing = [[False, False]] * (STEPS - 2) + [[False, True], [True, True]]
    assert np.isnan(measured.segments).tolist() == missing
    plain = subject(["1", "2"], [3, 4]).astype(np.float64)
    for i, n in ((0, 1), (2, 2), (STEPS - 2, 1)):
        computed = set(range(STEPS)) - set(range(i + 1, i + n + 1))
        with dcache.enabled(subject.pipe, Schedule.of_steps(computed, STEPS)):
            cached = subject(["1", "2"], [3, 4]).astype(np.float64)
        expected = np.abs(cached - plain).mean()
        assert expected > 0
        assert measured.segments[i, n - 1] == pytest.approx(expected)


def test_broken_pictures_are_as_far_off_as_can_be(
    seen: tuple[Shaped, Profile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Renderer, "pictures", lambda self, _: self.reference * np.nan)
    measured = with_segments(*seen, ["1"], longest=1).segments
    assert measured is not None
    assert measured[:-1, 0].tolist() == [BROKEN] * (STEPS - 1)


def test_what_cannot_be_measured_is_refused(seen: tuple[Shaped, Profile]) -> None:
    with pytest.raises(DcacheError, match="at least one prompt to measure segments"):
        with_segments(*seen, [])
    with pytest.raises(DcacheError, match="longest must be"):
        with_segments(*seen, ["1"], longest=0)


@pytest.mark.slow
def test_the_command_measures_segments_and_plans_from_them(tmp_path: Path) -> None:
    file, out = tmp_path / "demo.profile.safetensors", tmp_path / "plan.json"
    short = ["calibrate", "demo", "--steps", "4", "--repeats", "1", "--prompts"]
    assert main([*short, "demo-train:1", "--sites", "trunk", "--segments", "--out", str(file)]) == 0
    segments = Profile.load(file).segments
    assert segments is not None
    # Three, two, one and no prediction may follow an evaluation of four.
    assert np.isfinite(segments).sum(axis=1).tolist() == [3, 2, 1, 0]
    plan = ["demo-train:2", "--profile", str(file), "--method", "lemica", "--speedup", "1.1"]
    assert main([*short, *plan, "--out", str(out)]) == 0
    assert Schedule.load(out).method == "lemica"
