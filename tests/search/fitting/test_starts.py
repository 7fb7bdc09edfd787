"""Starts of a calibration: places by hand; traces and plans of a pipeline, which do what the presets do."""

from pathlib import Path

import numpy as np
import pytest

import dcache
from dcache.method import Method
from dcache.observation.tuning.tuner import learned_of
from dcache.search.fitting.latency_model import observe
from dcache.search.fitting.starts import planned_starts, presets, regular, resized, starts_of
from dcache.search.rendering.results import Results
from tests.pipelines import PIXART
from tests.search.pipeline_subjects import shaped


def test_the_default_and_newton_compute_these_evaluations() -> None:
    assert regular(3, 3, True, 20) == (0, 1, 2, 5, 8, 11, 14, 17, 19)
    assert regular(4, 2, True, 20) == (0, 1, 5, 9, 13, 17, 19)
    assert regular(4, 1, False, 20) == (0, 4, 8, 12, 16)
    assert regular(2, 9, True, 3) == (0, 1, 2)


def test_places_are_added_in_the_widest_gaps_and_taken_where_they_are_closest() -> None:
    assert resized((0, 5, 10), 4, 20) == (0, 5, 10, 15)
    assert resized((0, 1, 5, 10), 3, 20) == (0, 5, 10)
    assert resized((3, 10), 3, 20) == (0, 3, 10)
    assert resized((0, 7), 1, 20) == (0,)


def test_presets_have_the_work_that_is_asked_for() -> None:
    assert next(iter(presets(9, 20))) == "default"
    assert "newton(interval=4, warmup=2, last=True)" in presets(7, 20)
    assert "default" not in presets(7, 20)
    # Fewer than are asked for: it may win nevertheless.
    assert "default" in presets(12, 20)
    assert list(presets(1, 20)) == []


def test_what_begins_has_as_many_computes_and_does_what_the_preset_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCACHE_HOME", str(tmp_path))
    subject = shaped(PIXART)
    target = observe(subject, "1", 1)
    starts = starts_of(subject, target, 4, "1", 1, Results())
    names = {start.name.partition("(")[0] for start in starts}
    assert names >= {"newton", "adaptive", "tuned", "pairs"}
    assert {len(start.anchors) for start in starts} == {4}
    assert {start.anchors[0] for start in starts} == {0}
    # Nothing of it stays in the folder of later processes.
    assert list(tmp_path.iterdir()) == []
    newton = next(start for start in starts if start.name.startswith("newton"))
    schedule = newton.schedule(target)
    assert schedule is not None
    given: dict[str, Method] = presets(4, target.steps)
    expected, result = (_made(subject, method) for method in (given[newton.name], schedule))
    np.testing.assert_array_equal(result, expected)


def test_tables_of_an_earlier_call_give_the_same_plans_without_another_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCACHE_HOME", str(tmp_path))
    subject = shaped(PIXART)
    target = observe(subject, "1", 1)
    expected = planned_starts(subject, target, 4, "1", 1)
    known = learned_of(subject.pipe.transformer)
    assert known is not None
    monkeypatch.setattr(type(subject), "__call__", lambda *_: pytest.fail("called"))
    starts = planned_starts(subject, target, 4, "1", 1, known[1].observed)
    assert [start.name for start in starts] == ["tuned", "pairs"]
    assert [start.anchors for start in starts] == [start.anchors for start in expected]
    assert starts[0].terms == expected[0].terms


def _made(subject: object, method: object) -> np.ndarray:
    with dcache.enabled(subject.pipe, method):  # type: ignore[attr-defined]
        return np.asarray(subject(["2"], [2]))  # type: ignore[operator]
