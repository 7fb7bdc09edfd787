"""Contexts read in parallel: one of them at neutral settings is the plain text."""

import pytest
import torch
from transformers import DynamicCache

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import generate, llama
from tests.lm_kv.sharing.texts import ids, questions, read, recall_model


def asked(columns: int, rows: int = 3) -> dict[str, torch.Tensor]:
    """Questions of four tokens behind so many columns; the first row has two pads in front of them."""
    inputs = {"input_ids": ids(rows, 4, 3), "attention_mask": torch.ones(rows, columns + 4, dtype=torch.long)}
    inputs["input_ids"][0, :2] = inputs["attention_mask"][0, columns : columns + 2] = 0
    return inputs


def test_one_context_at_neutral_settings_is_the_plain_text():
    model, prefix, context = llama(), ids(1, 5), ids(1, 12, 2)
    inputs = asked(17)
    cache = lm_kv.ape(read(model, prefix), [context[0]], temperature=1.0, scale=1.0, rows=3)
    tokens, logits = generate(model, inputs, cache)
    text = torch.cat([prefix, context], 1).expand(3, -1)
    inputs["input_ids"] = torch.cat([text, inputs["input_ids"]], 1)
    expected, plain = generate(model, inputs, DynamicCache(config=model.config))
    assert torch.equal(tokens, expected)
    torch.testing.assert_close(logits, plain, atol=1.5e-5, rtol=0)


def test_the_order_of_the_contexts_is_no_matter_and_a_row_is_as_alone():
    model = llama()
    prefix = read(model, ids(1, 5))
    contexts = [ids(1, length, length)[0] for length in (7, 4, 9)]
    cache = lm_kv.ape(prefix, contexts, rows=3)
    assert cache.get_seq_length() == 14
    _, logits = generate(model, asked(14), cache)
    _, other = generate(model, asked(14), lm_kv.ape(prefix, contexts[::-1], rows=3))
    torch.testing.assert_close(other, logits, atol=1.5e-5, rtol=0)
    inputs = asked(14)
    alone = {
        "input_ids": inputs["input_ids"][:1, 2:],
        "attention_mask": torch.ones(1, 14 + 2, dtype=torch.long),
    }
    _, single = generate(model, alone, lm_kv.ape(prefix, contexts))
    torch.testing.assert_close(single, logits[:1], atol=1.5e-5, rtol=0)


def test_temperature_and_scale_move_the_answers():
    model, context = llama(2), [ids(1, 12, 2)[0]]
    prefix = read(model, ids(1, 5))
    plain, sharp, light = (
        generate(model, asked(17), lm_kv.ape(prefix, context, temperature=t, scale=s, rows=3))[1][:, 0]
        for t, s in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.5))
    )
    assert (sharp - plain).abs().max() > 0.1
    assert (light - plain).abs().max() > 0.1


def test_contexts_are_counted_once():
    model = llama(2)
    cache = lm_kv.ape(read(model, ids(1, 10)), [ids(1, 100, i)[0] for i in range(3)], rows=4)
    # Two layers, two KV heads of 16 channels, keys and values of four bytes.
    token = 2 * 2 * 16 * 2 * 4
    assert 310 * token <= cache.nbytes <= 310 * (token + 2 * 2 * 4) + 200
    assert cache.stats().kept == (310.0,) * 4
    assert cache.stats().seen == (110,) * 4


@pytest.mark.parametrize("value", [0.0, 1.5, "x", None], ids=repr)
@pytest.mark.parametrize("option", ["temperature", "scale"])
def test_numbers_out_of_range_are_refused(option, value):
    with pytest.raises(DcacheError, match=option):
        lm_kv.ape(read(llama(2), ids(1, 5)), [ids(1, 4)[0]], **{option: value})


def test_the_prefix_must_be_one_text():
    with pytest.raises(DcacheError, match="ape shares one text, and this cache holds 2 rows"):
        lm_kv.ape(read(llama(2), ids(2, 5)), [ids(1, 4)[0]])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pieces", "neutral", "published"),
    [(1, 0.986, 0.979), (2, 0.969, 0.949), (4, 0.935, 0.928), (8, 0.801, 0.822)],
)
def test_recall_from_contexts_read_apart(pieces, neutral, published):
    """What docs/lm_kv/policies/ape.md says."""
    model = recall_model()
    right = [0, 0]
    contexts, keys, values = questions()
    for context, key, value in zip(contexts, keys, values, strict=True):
        prefix, texts = read(model, context[None, :1]), context[1:].chunk(pieces)
        for index, setting in enumerate((1.0, 0.9)):
            cache = lm_kv.ape(prefix, texts, temperature=setting, scale=setting, rows=len(key))
            with torch.no_grad():
                logits = model(key[:, None], past_key_values=cache).logits[:, -1]
            right[index] += int((logits.argmax(-1) == value).sum())
    shares = [count / values.numel() for count in right]
    assert shares == pytest.approx([neutral, published], abs=0.01)


def test_a_question_without_a_mask_is_refused_with_what_is_missing():
    model = llama(2)
    cache = lm_kv.ape(read(model, ids(1, 5)), [ids(1, 12, 2)[0]])
    with pytest.raises(DcacheError, match="or an attention_mask as long as both"):
        model.generate(ids(1, 4), past_key_values=cache, max_new_tokens=2)
