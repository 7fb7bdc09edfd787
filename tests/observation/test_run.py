"""The features of one run of a model that multiplies, 8 (x + t), so that all is known by hand."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import dcache
from dcache import DcacheError, methods
from dcache.observation.features import FeatureBuffer, Key
from dcache.observation.run import SiteObserver, keyed, observe_run, shape_of_run
from tests.engine.tiny_models import Toy

TIMES = (4.0, 2.0, 1.0)
X = torch.zeros(1, 3, 4)
TRUNK, CHANGE, MODEL = Key("trunk", "0", "value"), Key("trunk", "0", "delta"), Key("model", "0", "value")


@pytest.fixture
def toy() -> Iterator[Toy]:
    model = Toy()
    with dcache.enabled(model, methods.interval(interval=1, sites="trunk")):
        yield model


def walk(toy: Toy, times: tuple[float, ...] = TIMES) -> None:
    with torch.no_grad():
        for t in times:
            toy(X, t)


def test_the_shape_of_a_run_is_what_there_is_to_hold(toy: Toy) -> None:
    shape = shape_of_run(toy, lambda: walk(toy))
    change_of_model = Key("model", "0", "delta")
    assert shape.sizes == dict.fromkeys((TRUNK, CHANGE, MODEL, change_of_model), X.numel())
    # A hand-written loop has no sampler and no noise levels.
    assert (shape.steps, shape.sampler, shape.sigmas) == (3, "", ())
    assert set(shape_of_run(toy, lambda: walk(toy), model=False).sizes) == {TRUNK, CHANGE}


def test_the_tables_are_those_of_the_known_features(toy: Toy) -> None:
    shape = shape_of_run(toy, lambda: walk(toy))
    features = FeatureBuffer(shape.sizes, shape.steps, cap=1 << 20)
    observe_run(toy, lambda: walk(toy), features)
    t = np.array(TIMES)
    # Output 8 t, input t, so the change is 7 t; the model's own input is 0.
    for key, factor in ((TRUNK, 8.0), (CHANGE, 7.0), (MODEL, 8.0)):
        np.testing.assert_allclose(features.tables(key).gram, np.outer(factor * t, factor * t))
        np.testing.assert_allclose(features.tables(key).size, factor * t)


def test_nothing_is_remembered_while_a_run_is_observed(toy: Toy) -> None:
    seen: list[str] = []
    observer = SiteObserver(lambda site, _call, _output: seen.append(site), model=False)
    from dcache.engine.observe import observe

    walk(toy)
    with observe(toy, observer):
        walk(toy)
        assert dcache.stats(toy).bytes_now == 0
    assert seen == ["trunk"] * 3
    walk(toy)
    assert dcache.stats(toy).bytes_now == X.numel() * 4


def test_an_output_has_one_key_for_its_value_and_one_for_its_change(toy: Toy) -> None:
    outputs: list[Any] = []
    from dcache.engine.observe import observe

    with observe(toy, SiteObserver(lambda *seen: outputs.append(seen), model=False)):
        walk(toy)
    site, call, output = outputs[1]
    (value, leaves), (change, changes) = keyed(site, call, output)
    assert (value, change) == (TRUNK, CHANGE)
    assert torch.equal(leaves[0], torch.full_like(X, 16.0))
    assert torch.equal(changes[0], torch.full_like(X, 14.0))


def test_a_run_that_cannot_be_planned_from_is_refused(toy: Toy) -> None:
    with pytest.raises(DcacheError, match="Toy was not called in the run"):
        shape_of_run(toy, lambda: None)
    with pytest.raises(DcacheError, match="the run has 1 evaluation: there is nothing to predict"):
        shape_of_run(toy, lambda: walk(toy, (4.0,)))


def test_a_broken_feature_is_named_with_its_evaluation(toy: Toy) -> None:
    toy.blocks[1].weight.fill_(float("nan"))
    with pytest.raises(
        DcacheError, match="value of 'trunk' on branch '0' is NaN or infinite in evaluation 0"
    ):
        shape_of_run(toy, lambda: walk(toy))
