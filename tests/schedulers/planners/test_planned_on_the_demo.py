"""From an observed run of the shipped model to planned places that make better pictures than even ones."""

import pytest

from dcache import predictors
from dcache.eval.subject import load
from dcache.profile import Profile
from dcache.schedulers.planners import make, scheduled
from dcache.schedulers.planners.gram import predicted_error
from dcache.schedulers.planners.pairs import errors
from dcache.search.fitting.placement import even_places
from dcache.search.observe import observe
from dcache.search.rendering.render import Renderer

T, COMPUTES = 20, 8
SEEN = ["a large striped red circle at the top left on a blue background"]
OTHER = [
    "a small plain green star at the right on a white background",
    "a large dotted white heart at the bottom on a purple background",
]


@pytest.fixture(scope="module")
def held() -> Renderer:
    return Renderer(load("demo", steps=T, guidance=3.0, device="cpu"), OTHER, seed=5)


@pytest.fixture(scope="module")
def profile(held: Renderer) -> Profile:
    return observe(held.subject, SEEN, sites=["trunk"], timing=False)


@pytest.mark.parametrize("predictor", ["fitted", "reuse"])
def test_planned_places_beat_even_ones(held: Renderer, profile: Profile, predictor: str) -> None:
    planned = make("pairs", profile, computes=COMPUTES, predictor=predictor)
    (plan,) = planned.components.values()
    assert sum(plan.rows["*"]["trunk"]) == COMPUTES
    alike = scheduled(profile, "even", {"trunk": even_places(COMPUTES, T)}, predictor="reuse", clock="step")
    assert held.quality(planned) > held.quality(alike) + 2


def test_the_tables_agree_with_the_predictors(profile: Profile) -> None:
    gram, steps = profile.tables("trunk").gram, [float(t) for t in range(T)]
    for name, parameters in (("taylor", {"order": 1}), ("reuse", {})):
        predictor, table = predictors.make(name, parameters), errors(profile, "trunk", name)
        for a, b, t in ((0, 1, 3), (2, 5, 6), (3, 8, 11)):
            assert table[a, b, t] == pytest.approx(predicted_error(gram, predictor, (a, b), steps, t))
