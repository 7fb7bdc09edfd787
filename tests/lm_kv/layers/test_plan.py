import warnings

import pytest
import torch

from dcache import DcacheWarning, lm_kv
from dcache.lm_kv.budgets.budget import Budget
from dcache.lm_kv.layers.plan import plan_rows
from dcache.lm_kv.layers.shared import Shared
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.scoring.scorers import KeyDistance
from tests.lm_kv.language_models import batch, llama

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


def read(policy: Policy, length: int = 40, steps: int = 6) -> list[float]:
    """Tokens that a KV head reads at each decoded token of a text of so many."""
    model, inputs, counts = llama(1), batch(pads=0, length=length), []
    cache = lm_kv.KVCache(model, policy)
    model(inputs["input_ids"][:1], past_key_values=cache)
    for step in range(steps):
        model(torch.tensor([[5 + step]]), past_key_values=cache)
        counts += cache.stats().read
    return counts


def test_pages_that_fit_no_budget_are_said_once_with_what_to_set():
    policy = lm_kv.quest(24, window=8, every=3)
    # The window and what was decoded since the last indexing.
    message = (
        "of a budget of 24 tokens the newest leave 15, in which no page of 16 fits, so that quest reads the "
        "newest alone: set budget to at least 27 tokens, or page to at most 15"
    )
    with pytest.warns(DcacheWarning, match=message) as said:
        assert read(policy) == [9, 10, 11, 9, 10, 11]
    assert len(said) == 1
    # No warning, and a page at every step; one at every first step after an indexing.
    assert (
        min(a - b for a, b in zip(read(lm_kv.quest(27, window=8, every=3)), (9, 10, 11) * 2, strict=True))
        == 16
    )
    assert read(lm_kv.quest(24, page=15, window=8, every=3))[0] == 24
    # All is read, or all of a short text.
    assert read(lm_kv.quest(1.0, window=8)) == list(range(41, 47))
    assert read(lm_kv.quest(24, window=8), length=10) == list(range(11, 17))


def test_drafts_may_read_the_newest_alone():
    model, inputs = llama(2), batch(pads=0)["input_ids"][:1]
    draft = lm_kv.triforce(8, page=16, window=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "sinks=16 and window=0 take more than half", DcacheWarning)
        model.generate(inputs, custom_generate=draft, max_new_tokens=12, do_sample=False)
    assert draft.counts.drafted
