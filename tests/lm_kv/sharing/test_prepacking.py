"""Prompts read in one row: token-identical to padding."""

import pytest
import torch
from transformers import DynamicCache

from dcache import lm_kv
from tests.lm_kv.language_models import FAST, SLOW, batch, family, generate, llama
from tests.lm_kv.sharing.texts import questions, recall_model

FULL = ("llama", "qwen3", "gpt2", "phi")
MORE = ("opt", "gpt_neox", "glm4", "llama3_rope", "yarn", "qwen3_moe", "smollm3", "granite")


def lone() -> dict[str, torch.Tensor]:
    """Three rows of 27, 40 and 1 tokens."""
    inputs = batch()
    last = torch.zeros(1, 40, dtype=torch.long)
    last[0, -1] = 1
    return {
        "input_ids": torch.cat([inputs["input_ids"], 7 * last]),
        "attention_mask": torch.cat([inputs["attention_mask"], last]),
    }


def check_family(name: str) -> None:
    model, inputs = family(name), lone()
    tokens, logits = generate(model, inputs, DynamicCache(config=model.config))
    cache = lm_kv.prepacking(lm_kv.KVCache(model, "keydiff", budget=1.0), **inputs)
    own_tokens, own_logits = generate(model, inputs, cache)
    assert torch.equal(own_tokens, tokens)
    torch.testing.assert_close(own_logits, logits, atol=1.5e-5, rtol=0)


@pytest.mark.parametrize("name", FULL)
def test_the_rows_go_on_as_behind_a_padded_batch(name):
    assert name in FAST
    check_family(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_more_families(name):
    assert name in SLOW
    check_family(name)


def test_a_policy_evicts_before_the_last_token_is_read():
    model, inputs = llama(2), batch()
    cache = lm_kv.prepacking(lm_kv.KVCache(model, lm_kv.snapkv(window=4), budget=8), **inputs)
    assert cache.stats().kept == (8.0, 8.0)
    generate(model, inputs, cache, tokens=3)
    assert cache.stats().kept == (11.0, 11.0)


@pytest.mark.slow
def test_contexts_of_unequal_length_are_read_without_their_pads():
    """What docs/lm_kv/policies/prepacking.md says."""
    model = recall_model()
    contexts, keys, _ = questions()
    ids = torch.cat([contexts, keys[:, :1]], 1)
    mask = torch.ones_like(ids)
    for row in range(len(ids)):
        mask[row, : 10 * row] = 0
    cache = lm_kv.prepacking(lm_kv.KVCache(model, "keydiff", budget=1.0), ids, mask)
    tokens, logits = generate(model, {"input_ids": ids, "attention_mask": mask}, cache, tokens=4)
    expected, plain = generate(
        model, {"input_ids": ids, "attention_mask": mask}, DynamicCache(config=model.config), tokens=4
    )
    assert torch.equal(tokens, expected)
    torch.testing.assert_close(logits, plain, atol=1e-4, rtol=0)
    assert mask[:, :-1].float().mean() == pytest.approx(0.523, abs=0.001)
