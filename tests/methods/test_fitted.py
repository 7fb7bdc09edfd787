"""The preset `fitted`: from a profile, its file or a schedule; on a pipeline it does what its plan does."""

from pathlib import Path

import numpy as np
import pytest
import torch

import dcache
from dcache import methods
from dcache.errors import DcacheError
from dcache.methods.replay import replay
from dcache.predictors.fitted import Fitted
from dcache.profile import FeatureTables, Latencies, Profile
from dcache.schedulers.planners import make
from dcache.schedulers.planners.gram import table
from tests.pipelines import PIXART, STEPS
from tests.rules import computed_steps


def tables(seed: int) -> FeatureTables:
    z = np.cumsum(np.random.default_rng(seed).standard_normal((STEPS, 30)), axis=0)
    apart = np.abs(z[:, None] - z[None]).mean(axis=2)
    return FeatureTables(z @ z.T / z.shape[1], apart, np.abs(z).mean(axis=1))


def profile() -> Profile:
    sites = {
        "trunk": {"0": {"delta": tables(0), "value": tables(1)}},
        "attn:0": {"0": {"value": tables(2)}},
        "mlp:0": {"0": {"value": tables(3)}},
    }
    timed = Latencies(1.0, {"trunk": 0.12}, {"trunk": 0.0})
    return Profile(STEPS, sites, latencies=timed, component="transformer")


@pytest.mark.parametrize("order", [1, 2])
def test_the_weights_are_those_of_the_gram_matrix(order: int) -> None:
    method = methods.fitted(profile(), steps=[0, 2, 5], order=order, ridge=0.01)
    assert method.predictor == Fitted({"*": table(tables(0).gram, (0, 2, 5), order, 0.01)})
    assert (method.name, method.sites, method.codec, method.clock) == ("fitted", ("trunk",), None, "step")
    assert method.predictor.order == order
    assert (method.parameters["steps"], method.parameters["order"]) == ([0, 2, 5], order)


def test_several_sites_have_weights_of_their_own() -> None:
    method = methods.fitted(profile(), sites=["attn:0", "mlp:0"], steps=[0, 1, 3])
    assert method.predictor.at("attn:0") == Fitted({"*": table(tables(2).gram, (0, 1, 3))})
    assert method.predictor.at("mlp:0") == Fitted({"*": table(tables(3).gram, (0, 1, 3))})


def test_a_speedup_places_by_the_planner() -> None:
    method = methods.fitted(profile(), speedup=2.0)
    # 1 / (1 - 0.12 * predicted) is 2 or more from five predicted evaluations on.
    found = computed_steps(method, STEPS)
    assert len(found) == 2
    (plan,) = make("pairs", profile(), computes=2).components.values()
    assert found == [t for t, computed in enumerate(plan.rows["*"]["trunk"]) if computed]
    assert method.predictor == Fitted.from_parameters(**plan.parameters)


def test_files_of_profiles_and_schedules(tmp_path: Path) -> None:
    path = profile().save(tmp_path / "seen.safetensors")
    assert methods.fitted(path, interval=2) == methods.fitted(profile(), interval=2)
    schedule = make("pairs", profile(), computes=3)
    method = methods.fitted(schedule.save(tmp_path / "made.json"))
    assert method == methods.fitted(schedule)
    assert method.predictor == replay(schedule).predictor
    with pytest.raises(DcacheError, match="fitted needs profile="):
        methods.fitted()
    with pytest.raises(DcacheError, match=r"cannot read the profile .*nothing\.safetensors"):
        methods.fitted(tmp_path / "nothing.safetensors")


def test_on_a_pipeline_it_does_what_its_plan_does() -> None:
    method = methods.fitted(profile(), steps=[0, 1, 4])
    pipe = PIXART.build()
    with dcache.enabled(pipe, method):
        latents = PIXART.run(pipe)
        trace, stats = dcache.trace(pipe), dcache.stats(pipe)
    assert (stats.computed, stats.predicted) == (3, 4)
    (plan,) = trace.components.values()
    assert plan.predictor == "fitted"
    assert Fitted.from_parameters(**plan.parameters) == method.predictor
    with dcache.enabled(pipe, trace):
        assert torch.equal(PIXART.run(pipe), latents)
    with dcache.enabled(pipe, methods.interval(interval=STEPS)):
        assert not torch.equal(PIXART.run(pipe), latents)
    # Places and weights are for this number of evaluations.
    with dcache.enabled(pipe, method), pytest.raises(DcacheError, match="7 evaluations"):
        PIXART.run(pipe, num_inference_steps=8)
