"""Drafting on pages of the model's own cache: lossless whatever is read."""

import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import FAST, SLOW, family, llama
from tests.lm_kv.sharing.texts import ids, questions, recall_model

GREEDY = {"max_new_tokens": 14, "do_sample": False}
FULL = ("llama", "qwen3", "gemma2", "gpt2")
MORE = ("gpt_neox", "opt", "glm4", "yarn", "qwen3_moe", "cohere2", "phi3")


def check_family(name: str) -> None:
    model, text = family(name), ids(1, 40)
    plain = model.generate(text, **GREEDY)
    own = lm_kv.triforce(8, tokens=3, page=4, window=2, every=4)
    assert torch.equal(model.generate(text, custom_generate=own, **GREEDY), plain)
    assert own.counts.drafted > own.counts.accepted


@pytest.mark.filterwarnings("ignore:sinks=:dcache.DcacheWarning")
@pytest.mark.parametrize("name", FULL)
def test_greedy_decoding_gives_what_it_gives_without(name):
    assert name in FAST
    check_family(name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:sinks=:dcache.DcacheWarning")
@pytest.mark.parametrize("name", MORE)
def test_more_families(name):
    assert name in SLOW
    check_family(name)


@pytest.mark.filterwarnings("ignore:sinks=:dcache.DcacheWarning")
@pytest.mark.parametrize("budget", [1, 0.01, 0.5, 10_000])
def test_any_budget_is_lossless(budget):
    model, text = llama(2), ids(1, 40)
    plain = model.generate(text, **GREEDY)
    assert torch.equal(model.generate(text, custom_generate=lm_kv.triforce(budget), **GREEDY), plain)


def test_a_prompt_of_one_token_and_one_with_pads_are_too():
    model, text = llama(2), ids(1, 12)
    short = model.generate(text[:, :1], **GREEDY)
    draft = lm_kv.triforce(8, page=2, window=2, every=4)
    assert torch.equal(model.generate(text[:, :1], custom_generate=draft, **GREEDY), short)
    mask = torch.ones_like(text)
    mask[0, :5] = 0
    padded = model.generate(text, attention_mask=mask, **GREEDY)
    own = model.generate(text, attention_mask=mask, custom_generate=draft, **GREEDY)
    assert torch.equal(own, padded)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget must be a float in"),
        ({"budget": 4, "tokens": 0}, "tokens must be a whole number of at least 1"),
        ({"budget": 4, "page": 0}, "page must be a whole number of at least 1"),
        ({"budget": 4, "window": 0.9}, "window must be a whole number"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(DcacheError, match=message):
        lm_kv.triforce(**options)


@pytest.mark.slow
@pytest.mark.parametrize(("page", "shares"), [(8, (0.368, 0.187)), (4, (0.442, 0.257))])
def test_acceptance_on_the_recall_model(page, shares):
    """What docs/lm_kv/policies/triforce.md says: 24 tokens behind a context and a question."""
    model = recall_model()
    contexts, keys, _ = questions(8)
    options = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    for budget, share in zip((0.5, 0.25), shares, strict=True):
        drafted = accepted = 0
        for context, key in zip(contexts, keys, strict=True):
            text = torch.cat([context, key[:1]])[None]
            own = lm_kv.triforce(budget, tokens=4, page=page, window=0)
            plain = model.generate(text, **options)
            assert torch.equal(model.generate(text, custom_generate=own, **options), plain)
            drafted, accepted = drafted + own.counts.drafted, accepted + own.counts.accepted
        assert accepted / drafted == pytest.approx(share, abs=0.02)
