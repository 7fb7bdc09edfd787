"""Drafts that a model verifies itself."""

import math

import pytest
import torch
from transformers import DynamicCache

import dcache
from dcache import DcacheError, lm_kv
from dcache.lm_kv.sharing.drafting import Counts
from tests.lm_kv.language_models import llama
from tests.lm_kv.sharing.texts import ids

GREEDY = {"max_new_tokens": 12, "do_sample": False}


def draft(budget: float = 16, tokens: int = 4):
    return lm_kv.triforce(budget, tokens=tokens, page=4, window=4, every=8)


def test_a_share_is_accepted():
    assert Counts(drafted=8, accepted=6).acceptance == 0.75
    assert math.isnan(Counts().acceptance)


def test_drafts_that_read_everything_are_all_accepted():
    model, text = llama(2), ids(1, 40)
    own = draft(1.0)
    model.generate(text, custom_generate=own, **GREEDY)
    # The prompt gives one token, two rounds of four drafted ones five each, the last one is drafted alone.
    assert (own.counts.drafted, own.counts.accepted, own.counts.calls) == (9, 8, 4)


def test_the_counts_are_those_of_the_last_text():
    model, own = llama(2), draft()
    for _ in range(2):
        model.generate(ids(1, 40), custom_generate=own, **GREEDY)
        assert own.counts.calls <= 12
    assert 0 <= own.counts.acceptance <= 1


def test_a_processor_sees_drafts_and_an_end_ends_the_text():
    model, text = llama(2), ids(1, 40)
    options = {**GREEDY, "repetition_penalty": 1.5, "pad_token_id": 0}
    plain = model.generate(text, **options)
    assert torch.equal(model.generate(text, custom_generate=draft(1.0), **options), plain)
    end = int(plain[0, 45])
    stopped = model.generate(text, eos_token_id=end, **options)
    assert torch.equal(model.generate(text, eos_token_id=end, custom_generate=draft(1.0), **options), stopped)


def test_sampling_draws_as_many_tokens():
    out = llama(2).generate(ids(1, 40), custom_generate=draft(), max_new_tokens=12, do_sample=True)
    assert out.shape == (1, 52)


def test_logits_and_the_cache_come_back():
    model, text = llama(2), ids(1, 40)
    options = {**GREEDY, "return_dict_in_generate": True, "output_logits": True}
    own = model.generate(text, custom_generate=draft(), **options)
    plain = model.generate(text, **options)
    torch.testing.assert_close(torch.stack(own.logits), torch.stack(plain.logits), atol=1.5e-5, rtol=0)
    assert own.past_key_values.stats().method == "triforce"


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        (2, {}, "drafts are verified for one row and no beams, got 2 rows and 1 beams"),
        (1, {"num_beams": 2}, "and 2 beams"),
        (1, {"use_cache": False}, "leave past_key_values, cache_implementation and use_cache out"),
    ],
    ids=["rows", "beams", "no cache"],
)
def test_other_calls_are_refused(rows, more, message):
    with pytest.raises(DcacheError, match=message):
        llama(2).generate(ids(rows, 9), custom_generate=draft(), **GREEDY, **more)


def test_a_cache_that_holds_something_is_refused():
    model, filled = llama(2), DynamicCache()
    with torch.no_grad():
        model(ids(1, 4), past_key_values=filled)
    with pytest.raises(DcacheError, match="got DynamicCache"):
        model.generate(ids(1, 9), past_key_values=filled, custom_generate=draft(), **GREEDY)


def test_an_enabled_policy_is_left_alone():
    model, text = llama(2), ids(1, 40)
    plain = model.generate(text, **GREEDY)
    with dcache.enabled(model, lm_kv.keydiff(budget=0.5)):
        assert torch.equal(model.generate(text, custom_generate=draft(), **GREEDY), plain)
