import warnings

import pytest

from dcache import DcacheWarning
from dcache.lm_kv.budgets.budget import Budget
from dcache.lm_kv.layers.plan import plan_rows
from dcache.lm_kv.layers.shared import Shared
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.scoring.scorers import KeyDistance

SEEN = (27, 40)


def shared(budget: float = 0.4, **policy) -> Shared:
    return Shared(Policy(scorer=KeyDistance(), **policy), Budget(budget), lambda layers: None)


def test_sinks_and_window_are_within_the_budget():
    plan = plan_rows(shared(sinks=2, window=3), SEEN)
    assert (plan.tokens, plan.sinks, plan.window) == ([10, 16], [2, 2], [3, 3])


def test_a_window_may_be_a_share_of_the_budget():
    assert plan_rows(shared(sinks=0, window=0.5), SEEN).window == [5, 8]


def test_sinks_and_window_shrink_to_half_the_budget_which_is_said_once():
    one = shared(sinks=4, window=32)
    with pytest.warns(
        DcacheWarning, match="take more than half of a budget of 10 tokens; they shrink to 4 and 1"
    ):
        plan = plan_rows(one, SEEN)
    assert plan.sinks == [4, 4]
    assert plan.window == [1, 4]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan_rows(one, SEEN)


def test_rows_without_a_token_yet_are_no_reason_to_speak():
    with pytest.warns(DcacheWarning, match="half of a budget of 1 token; they shrink to 0 and 0"):
        plan_rows(shared(sinks=4, window=0), (0, 3, 40))
