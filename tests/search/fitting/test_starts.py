"""Starts of a calibration: places by hand; traces and plans of a pipeline, which do what the presets do."""

from pathlib import Path

import numpy as np
import pytest

import dcache
from dcache.method import Method
from dcache.observation.tuning.tuner import learned_of
from dcache.search.fitting.closed_loop import anchored, with_slopes
from dcache.search.fitting.latency_model import observe
from dcache.search.fitting.starts import (
    observed_call,
    planned_slopes,
    planned_starts,
    presets,
    regular,
    resized,
    starts_of,
)
from dcache.search.rendering.results import Results, resumable
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
    observed = observed_call(subject, "1", 1, Results())
    starts = starts_of(subject, target, 4, "1", 1, Results(), observed)
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
    monkeypatch.setenv("DCACHE_HOME", str(tmp_path / "home"))
    for guided in ("batched", "off"):
        subject = shaped(PIXART, guided)
        target = observe(subject, "1", 1)
        with resumable(tmp_path / "mine.schedule.json", {}) as results:
            first = observed_call(subject, "1", 1, results)
            known = learned_of(subject.pipe.transformer)
            with monkeypatch.context() as patched:
                patched.setattr(type(subject), "__call__", lambda *_: pytest.fail("called"))
                again = observed_call(subject, "1", 1, results)
        assert known is not None
        for observed in (first, again):
            starts = planned_starts(target, 4, observed)
            assert [start.name for start in starts] == ["tuned", "pairs"]
            assert starts == planned_starts(target, 4, known[1].observed)


def test_slopes_of_a_plan_predict_as_the_plan_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCACHE_HOME", str(tmp_path))
    subject = shaped(PIXART, "off")
    target = observe(subject, "1", 1)
    observed = observed_call(subject, "1", 1, Results())
    for computes in (4, 2):
        # Fitted weights, and below 40 % the line on log-SNR.
        slopes = planned_slopes(target, computes, observed)
        plan = planned_starts(target, computes, observed)[0].schedule(target)
        assert slopes is not None
        assert plan is not None
        ((_, own),) = plan.components.items()
        pairs = anchored(own.rows["*"]["trunk"])
        same = with_slopes(plan, {t: float(slopes[a, b, t]) for t, (a, b) in pairs.items()})
        np.testing.assert_allclose(_made(subject, same), _made(subject, plan), rtol=0, atol=1e-5)
    halves = observed_call(shaped(PIXART, "batched"), "1", 1, Results())
    assert halves is not None
    assert halves.halves is not None
    assert planned_slopes(target, 4, halves) is None
    assert planned_slopes(target, 4, None) is None


def _made(subject: object, method: object) -> np.ndarray:
    with dcache.enabled(subject.pipe, method):  # type: ignore[attr-defined]
        return np.asarray(subject(["2"], [2]))  # type: ignore[operator]
