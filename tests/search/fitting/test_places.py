"""A search of places never ends below what it began with, and ends when its time is over."""

import random
from pathlib import Path

import pytest

from dcache.search.fitting.latency_model import observe
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
