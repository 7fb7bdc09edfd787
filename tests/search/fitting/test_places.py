"""A search of places never ends below what it began with, and ends when its time is over."""

import random
from pathlib import Path
from typing import Any

import pytest

from dcache.schedule import Schedule
from dcache.search.fitting.closed_loop import Fit, with_slopes
from dcache.search.fitting.latency_model import CalibrationTarget, observe
from dcache.search.fitting.placement import even_places
from dcache.search.fitting.places import Search
from dcache.search.fitting.starts import Start, Terms, observed_starts, presets
from dcache.search.rendering.render import Renderer
from dcache.search.rendering.results import Results
from tests.pipelines import SHAPES
from tests.search.pipeline_subjects import shaped


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCACHE_HOME", str(tmp_path))


CASES = {"batched": ("pixart", "batched"), "sequential": ("flux", "sequential")}


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.slow) for case in CASES])
def test_a_search_ends_above_what_it_began_with(case: str) -> None:
    shape, guidance = CASES[case]
    subject = shaped(SHAPES[shape], guidance)
    target = observe(subject, "1", 1)
    fitting, checking = Renderer(subject, ["3", "4"], 3), Renderer(subject, ["1", "2"], 1)
    starts, slopes = observed_starts(subject, target, 4, "3", 3, Results())
    search = Search(target, fitting, checking, 6, random.Random(0), slopes)
    found = search.best_of([even_places(4, 7)], starts)
    # On pictures of its own, made by the presets themselves.
    fresh = Renderer(shaped(SHAPES[shape], guidance), ["1", "2"], 1)
    assert found.fitted == pytest.approx(fresh.quality(found.schedule))
    for name, method in presets(4, target.steps).items():
        if not name.startswith("adaptive"):
            assert found.fitted >= fresh.quality(method) - 1e-9, name
    plan = next(start for start in starts if start.name == "tuned").schedule(target)
    assert plan is not None
    assert found.fitted >= fresh.quality(plan) - 1e-9


def test_a_better_start_is_left_as_it_is() -> None:
    subject = shaped(SHAPES["pixart"])
    target = observe(subject, "1", 1)
    fitting, checking = Renderer(subject, ["3"], 3), Renderer(subject, ["1"], 1)
    # All computed: no other schedule has the uncached pictures.
    perfect = Start("all", even_places(4, 7), Terms(tuple(range(7)), "reuse", {}, "step"))
    found = Search(target, fitting, checking, 1, random.Random(0)).best_of([], [perfect])
    assert (found.schedule.method, found.fitted) == ("all", 100.0)


def test_where_the_time_is_over_one_start_is_tried_and_nothing_is_fitted() -> None:
    subject = shaped(SHAPES["pixart"])
    target = observe(subject, "1", 1)
    fitting, checking = Renderer(subject, ["3"], 3), Renderer(subject, ["1"], 1)
    first, second = (Start(name, anchors) for name, anchors in (("a", (0, 1, 4)), ("b", (0, 3, 5))))
    search = Search(target, fitting, checking, 9, random.Random(0), late=lambda _renderings: True)
    found = search.best_of([(0, 2, 4)], [first, second])
    assert fitting.rendered == 1
    ((_, plan),) = found.schedule.components.items()
    row = plan.rows["*"]["trunk"]
    assert tuple(t for t, computed in enumerate(row) if computed) == (0, 1, 4)


def computed(schedule: Schedule) -> tuple[int, ...]:
    ((_, plan),) = schedule.components.items()
    return tuple(t for t, computes in enumerate(plan.rows["*"]["trunk"]) if computes)


class Judge:
    """Rates schedules by what they compute, and by the predictor of half of the line."""

    rendered = 0

    def __init__(self, places: tuple[int, ...], gain: float = 5.0) -> None:
        self.places, self.gain = places, gain

    def quality(self, schedule: Schedule) -> float:
        ((_, plan),) = schedule.components.items()
        row = plan.parameters.get("weights", {}).get("*", {}).get("8", {})
        *_, older, newer = computed(schedule)
        half = -row.get(str(older), 0.0) == 0.5 * (8 - newer) / (newer - older)
        return 30.0 + self.gain * (computed(schedule) == self.places) + half


def test_weights_are_fitted_where_a_start_wins_on_other_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    target = CalibrationTarget(Schedule.of_steps(range(9), 9, codec="delta", clock="step"), paired=False)
    searched, wins = (0, 1, 2), (0, 3, 5)
    fits: list[tuple[tuple[int, ...], float]] = []

    def fit(at: Schedule, _fitting: Any, checking: Any, slopes: dict[int, float], *_: Any) -> Fit:
        fits.append((computed(at), slopes[6]))
        quality = checking.quality(at)
        return Fit(with_slopes(at, slopes), slopes, None, quality, quality + 2.0, 0)

    monkeypatch.setattr("dcache.search.fitting.places.fit", fit)
    start = Start("plan", wins, Terms(wins, "reuse", {}, "step"))
    judges: Any = Judge(searched), Judge(wins)
    found = Search(target, judges[0], judges[1], 1, random.Random(0)).best_of([searched], [start])
    # At 6 the line through 1 and 2 has the slope 4, that through 3 and 5 has 1 / 2; half of it is better.
    assert fits == [(searched, 2.0), (wins, 0.25)]
    assert (computed(found.schedule), found.fitted) == (wins, 37.0)
    # So are they at a start that is ahead before weights were fitted to the searched places: 31.5 and 30.
    fits.clear()
    judges = judges[0], Judge(wins, 1.5)
    found = Search(target, judges[0], judges[1], 1, random.Random(0)).best_of([searched], [start])
    assert [places for places, _ in fits] == [searched, wins]
    assert (computed(found.schedule), found.fitted) == (wins, 33.5)
    # A start that loses there is left alone.
    fits.clear()
    Search(target, judges[0], judges[0], 1, random.Random(0)).best_of([searched], [start])
    assert [places for places, _ in fits] == [searched]
