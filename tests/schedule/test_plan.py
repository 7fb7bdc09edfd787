"""`Plan`: its terms are checked when it is made, its predictor when it is built."""

from typing import Any

import pytest

from dcache.errors import DcacheError
from dcache.predictors import Fitted, Newton, Reuse, Taylor
from dcache.schedule.plan import Plan, check_clock_fits, check_terms, merge_equal_branches

ROWS = {"*": {"attn:0": (True, False, True), "mlp:0": (True, False, False)}}
LINE = {"*": {2: {0: -1.0, 1: 2.0}}}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"codec": "zip"}, "codec 'zip' is unknown"),
        ({"clock": "noon"}, "clock must be one of step, timestep, sigma, logsnr or None, got 'noon'"),
        ({"branches": "alone"}, "branches must be one of separate, together, got 'alone'"),
        ({"uncond_from": "mean"}, "uncond_from must be one of drop, bands, got 'mean'"),
    ],
)
def test_terms_that_are_unknown_are_refused_with_those_that_there_are(changed: Any, says: str) -> None:
    terms = {"codec": "delta:fp8", "clock": "sigma", "branches": "together", "uncond_from": "bands"}
    check_terms(**terms)
    Plan(ROWS, **terms)
    with pytest.raises(DcacheError, match=says):
        check_terms(**terms | changed)
    with pytest.raises(DcacheError, match=says):
        Plan(ROWS, **terms | changed)


def test_without_a_codec_a_clock_and_uncond_from_there_is_nothing_to_check() -> None:
    plan = Plan(ROWS)
    check_terms(plan.codec, plan.clock, plan.branches, plan.uncond_from)
    assert (plan.codec, plan.clock, plan.branches, plan.uncond_from) == (None, None, "separate", "")


@pytest.mark.parametrize("clock", [None, "timestep", "sigma", "logsnr"])
def test_fitted_weights_are_listed_by_evaluation_and_go_with_no_other_clock(clock: str | None) -> None:
    with pytest.raises(DcacheError, match=f"clock must be 'step', got {clock!r}"):
        check_clock_fits(Fitted(LINE), clock)
    check_clock_fits(Fitted(LINE), "step")
    check_clock_fits(Newton(2), clock)


def test_the_predictor_is_made_of_its_name_and_parameters() -> None:
    assert Plan(ROWS).make_predictor() == Reuse()
    made = Plan(ROWS, predictor="taylor", parameters={"order": 2, "since": 1}).make_predictor()
    assert made == Taylor(2, since=1)
    fitted = Plan(ROWS, predictor="fitted", parameters={"weights": LINE}, clock="step").make_predictor()
    assert fitted.weights([0.0, 1.0], [0, 1], 2.0) == [-1.0, 2.0]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"predictor": "oracle"}, "predictor 'oracle' is unknown"),
        ({"predictor": "newton", "parameters": {"degree": 1}}, "does not take {'degree': 1}"),
        ({"predictor": "newton", "parameters": {"order": 99}}, "order must be"),
        ({"predictor": "fitted", "parameters": {"weights": LINE}}, "clock must be 'step', got None"),
    ],
)
def test_a_predictor_that_cannot_be_made_is_told_when_it_is_made(changed: Any, says: str) -> None:
    plan = Plan(ROWS, **changed)
    with pytest.raises(DcacheError, match=says):
        plan.make_predictor()


def test_sites_are_in_order_and_computed_events_are_counted_on_every_branch() -> None:
    assert Plan(ROWS).sites == ("attn:0", "mlp:0")
    assert Plan(ROWS).computed == 3
    both = {"cond": ROWS["*"], "uncond": {"attn:0": (True, True, True), "mlp:0": (False,) * 3}}
    assert Plan(both).computed == 6


ROW, OTHER = {"trunk": (True, False)}, {"trunk": (True, True)}


def test_branches_with_the_same_rows_become_one() -> None:
    assert merge_equal_branches({"0": ROW, "1": dict(ROW)}) == {"*": ROW}
    assert merge_equal_branches({"0": ROW}) == {"*": ROW}
    assert merge_equal_branches({"*": ROW}) == {"*": ROW}


def test_branches_with_other_rows_stay_as_they_are() -> None:
    rows = {"0": ROW, "1": OTHER}
    assert merge_equal_branches(rows) is rows
    assert merge_equal_branches({}) == {}
