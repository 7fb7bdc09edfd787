"""Both halves of a guided batch carried apart: by hand, on real guidance, and told where there is none."""

import json
import warnings
from typing import Any

import pytest
import torch

import dcache
from dcache import Method
from dcache.cache.history import Branch
from dcache.engine.call import Call
from dcache.engine.pipeline import sessions_of
from dcache.errors import DcacheError, DcacheWarning
from dcache.kernels.weighted_sum import weighted_sum
from dcache.predictors import Reuse, make
from dcache.predictors.fitted import Fitted
from dcache.predictors.guided_pair import paired_sum
from dcache.schedule import Plan, Schedule
from dcache.schedulers import Every
from tests.engine.tiny_models import Toy
from tests.pipelines import PIXART, STEPS, WAN

MEAN = {"*": {2: {0: -1.0, 1: 2.0}}}
KEPT = {"*": {2: {1: 1.0}}}
BOTH = Fitted(MEAN, KEPT).at("trunk")


def test_the_mean_follows_its_weights_and_the_difference_its_own() -> None:
    u0, c0, u1, c1 = (torch.randn(3, 5, generator=torch.Generator().manual_seed(i)) for i in range(4))
    summed = paired_sum(BOTH, [0.0, 1.0], [0, 1], 2.0)
    assert summed is not None
    base = torch.randn(6, 5)
    u, c = (
        summed(base, [torch.cat([u0, c0]), torch.cat([u1, c1])], [-1.0, 2.0], torch.float32) - base
    ).chunk(2)
    torch.testing.assert_close((u + c) / 2, 2 * (u1 + c1) / 2 - (u0 + c0) / 2)
    torch.testing.assert_close(c - u, c1 - u1)


def test_which_half_is_which_does_not_matter() -> None:
    first, second = torch.randn(4, 5), torch.randn(4, 5)
    swapped = [torch.cat(x.chunk(2)[::-1]) for x in (first, second)]
    summed = paired_sum(BOTH, [0.0, 1.0], [0, 1], 2.0)
    assert summed is not None
    straight = summed(None, [first, second], [-1.0, 2.0], torch.float32)
    assert torch.equal(summed(None, swapped, [-1.0, 2.0], torch.float32), torch.cat(straight.chunk(2)[::-1]))


def test_an_odd_leaf_is_carried_whole() -> None:
    summed = paired_sum(BOTH, [0.0, 1.0], [0, 1], 2.0)
    assert summed is not None
    made = summed(None, [torch.tensor([1.0, 2, 3]), torch.tensor([2.0, 4, 9])], [-1.0, 2.0], torch.float32)
    assert made.tolist() == [3.0, 6.0, 15.0]


def test_nothing_is_apart_without_a_row_for_these_anchors() -> None:
    assert paired_sum(BOTH, [0.0, 3.0], [0, 3], 2.0) is None
    assert paired_sum(BOTH, [0.0, 1.0], [0, 1], 3.0) is None
    assert paired_sum(Fitted(MEAN).at("trunk"), [0.0, 1.0], [0, 1], 2.0) is None
    assert paired_sum(Reuse(), [0.0, 1.0], [0, 1], 2.0) is None


@pytest.mark.parametrize(
    ("paired", "half", "is_apart"),
    [(True, None, True), (False, None, False), (True, (4, slice(2, 4)), False)],
)
def test_a_region_carries_halves_apart_where_its_call_has_both(
    paired: bool, half: Any, is_apart: bool
) -> None:
    toy = dcache.enable(Toy(), Method("pair", rule=Every(2), predictor=BOTH, clock="step"))
    (region,) = sessions_of(toy)[""].binding.storing()
    branch = Branch("0", 2, paired=paired)
    history = branch.history("trunk")
    for step in range(2):
        history.push(step, float(step), (torch.zeros(2),))
    _, _, summed = region.terms(Call(branch, 2, 2.0, half=half), history)
    assert (summed is not weighted_sum) == is_apart


def test_both_tables_survive_json_and_are_checked() -> None:
    fitted = Fitted(MEAN, KEPT)
    assert fitted.order == 1
    assert Fitted({"*": {2: {1: 1.0}}}, MEAN).order == 1
    assert make("fitted", json.loads(json.dumps(fitted.parameters()))) == fitted
    assert "apart" not in Fitted(MEAN).parameters()
    with pytest.raises(DcacheError, match=r"must sum to one, got 0\.5"):
        Fitted(MEAN, {"*": {2: {1: 0.5}}})


ROW = tuple(t in (0, 1, 4) for t in range(STEPS))
LINE = {str(t): {"0": float(1 - t), "1": float(t)} for t in (2, 3)} | {
    str(t): {"1": (4.0 - t) / 3, "4": (t - 1.0) / 3} for t in (5, 6)
}
NEWEST = {str(t): {"1": 1.0} for t in (2, 3)} | {str(t): {"4": 1.0} for t in (5, 6)}


def schedule(mean: Any, difference: Any = None) -> Schedule:
    tables = {"weights": {"*": mean}} | ({} if difference is None else {"apart": {"*": difference}})
    return Schedule(STEPS, {"": Plan({"*": {"trunk": ROW}}, "delta", "fitted", tables, "step")})


def made(pipe: Any, shape: Any, how: Schedule, **options: Any) -> torch.Tensor:
    with dcache.enabled(pipe, how):
        return shape.run(pipe, **options)


def test_a_real_guided_run_uses_them_and_its_trace_replays_it() -> None:
    pipe = PIXART.build()
    line, newest = made(pipe, PIXART, schedule(LINE)), made(pipe, PIXART, schedule(NEWEST))
    # With the same weights for both it is the plain prediction, up to rounding.
    torch.testing.assert_close(made(pipe, PIXART, schedule(LINE, LINE)), line, atol=1e-5, rtol=1e-4)
    with dcache.enabled(pipe, schedule(LINE, NEWEST)):
        between = PIXART.run(pipe)
        trace = dcache.trace(pipe)
    assert (between - line).abs().max() > 1e-4
    assert (between - newest).abs().max() > 1e-4
    assert torch.equal(made(pipe, PIXART, trace), between)


def test_two_calls_are_no_halves_and_that_is_told() -> None:
    pipe = WAN.build()
    line = made(pipe, WAN, schedule(LINE))
    with pytest.warns(DcacheWarning, match="is no such two halves: those of their mean are used for all"):
        told = made(pipe, WAN, schedule(LINE, NEWEST))
    assert torch.equal(told, line)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made(PIXART.build(), PIXART, schedule(LINE, NEWEST))
