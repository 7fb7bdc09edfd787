"""A prefix stored once, against the plain batch."""

import copy

import pytest
import torch
from transformers import DynamicCache

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import FAST, SLOW, family, generate, llama
from tests.lm_kv.sharing.texts import batches, ids, questions, read, recall_model

# Every layer has full attention, or keys change with the length.
FULL = ("llama", "qwen3", "gpt2", "phi")
MORE = ("llama3_rope", "yarn", "qwen2", "mistral", "opt", "glm4", "olmo2", "smollm3", "granite", "gpt_neox")


def check_family(name: str) -> None:
    model = family(name)
    prefix, behind, plain = batches()
    tokens, logits = generate(model, plain, DynamicCache(config=model.config))
    cache = lm_kv.hydragen(read(model, prefix), 3)
    own_tokens, own_logits = generate(model, behind, cache)
    assert torch.equal(own_tokens, tokens)
    torch.testing.assert_close(own_logits, logits, atol=1.5e-5, rtol=0)
    # The last token is not stored.
    assert cache.stats().kept == (20 + 3 + 11, 20 + 6 + 11, 20 + 6 + 11)


@pytest.mark.parametrize("name", FULL)
def test_rows_with_pads_give_what_the_plain_batch_gives(name):
    assert name in FAST
    check_family(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_more_families(name):
    assert name in SLOW
    check_family(name)


def test_only_the_new_tokens_may_be_passed_with_the_whole_mask():
    model = llama(2)
    prefix, behind, _ = batches()
    expected, _ = generate(model, behind, lm_kv.hydragen(read(model, prefix), 3))
    behind["input_ids"] = behind["input_ids"][:, 20:]
    assert torch.equal(generate(model, behind, lm_kv.hydragen(read(model, prefix), 3))[0], expected)


def test_the_prefix_is_counted_once():
    model = llama(2)
    text = read(model, ids(1, 200))
    cache = lm_kv.hydragen(text, 8)
    # Two layers, two KV heads of 16 channels, keys and values of four bytes.
    token = 2 * 2 * 16 * 2 * 4
    assert 200 * token <= cache.nbytes <= 200 * (token + 2 * 2 * 4) + 8 * 8
    assert cache.stats().bytes_full == 8 * 200 * token
    tensors = [t for layer in cache.layers for t in layer.storages()]
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    assert cache.nbytes == sum(sizes.values())


def test_what_its_policy_evicted_stays_evicted():
    model = llama(2)
    prefix, behind, _ = batches()
    policy = lm_kv.snapkv(window=4, sinks=0)
    text = read(model, prefix, policy, budget=0.5)
    _, logits = generate(model, behind, lm_kv.hydragen(text, 3))
    # The same text in every row, evicted there: only the suffixes follow.
    rows = read(model, prefix.expand(3, -1), policy, budget=0.5)
    with rows.hold():
        _, expected = generate(model, behind, rows)
    torch.testing.assert_close(logits, expected, atol=1.5e-5, rtol=0)


def test_prefix_and_suffixes_may_be_stored_in_few_bits():
    model = llama(2)
    prefix, behind, _ = batches()
    few = lm_kv.kivi(bits=8, group=8, residual=0)
    _, exact = generate(model, behind, lm_kv.hydragen(read(model, prefix), 3))
    cache = lm_kv.hydragen(read(model, prefix, few), 3, codec=few)
    _, logits = generate(model, behind, cache)
    assert 0 < (logits - exact)[:, 0].abs().max() < 0.1
    # Of 34 and 37 tokens those behind the prefix are encoded in groups of eight.
    assert [layer.store.segments[0].width for layer in cache.layers] == [16, 16]


def test_beams_go_on_behind_one_prefix():
    model = llama(2)
    prefix, _, _ = batches()
    text = torch.cat([prefix, ids(1, 3, 5)], 1)
    options = {"max_new_tokens": 5, "do_sample": False, "num_beams": 3}
    expected = model.generate(text, **options)
    assert torch.equal(
        model.generate(text, past_key_values=lm_kv.hydragen(read(model, prefix), 3), **options), expected
    )


def test_assisted_decoding_takes_the_new_tokens_alone():
    model, (prefix, _, _) = llama(2), batches()
    text = torch.cat([prefix, ids(1, 3, 5)], 1)
    plain = model.generate(text, max_new_tokens=8, do_sample=False)
    out = model.generate(
        text[:, 20:],
        attention_mask=torch.ones_like(text),
        past_key_values=lm_kv.hydragen(read(model, prefix), 1),
        prompt_lookup_num_tokens=3,
        max_new_tokens=8,
        do_sample=False,
    )
    assert torch.equal(out[:, 3:], plain[:, 23:])


def test_the_prefix_goes_on_by_itself_and_forks_go_their_own_ways():
    model = llama(2)
    prefix, behind, _ = batches()
    text = read(model, prefix)
    cache = lm_kv.hydragen(text, 3)
    with torch.no_grad():
        model(ids(1, 5, 9), past_key_values=text)
    other = cache.fork()
    expected, _ = generate(model, behind, lm_kv.hydragen(read(model, prefix), 3))
    assert torch.equal(generate(model, behind, cache)[0], expected)
    assert torch.equal(generate(model, behind, copy.deepcopy(other))[0], expected)
    assert other.get_seq_length() == 20


def test_a_file_cannot_have_it():
    cache = lm_kv.hydragen(read(llama(2), ids(1, 9)), 2)
    with pytest.raises(DcacheError, match=r"hydragen made cannot be saved.*the cache of the prefix"):
        cache.save("never.safetensors")


@pytest.mark.slow
def test_the_questions_to_one_context_are_rows_of_a_batch():
    model = recall_model()
    contexts, keys, values = questions()
    right, held, full = 0, 0, 0
    for context, key, value in zip(contexts, keys, values, strict=True):
        cache = lm_kv.hydragen(read(model, context[None]), len(key))
        with torch.no_grad():
            logits = model(key[:, None], past_key_values=cache).logits[:, -1]
            plain = model(torch.cat([context.expand(len(key), -1), key[:, None]], 1)).logits[:, -1]
        torch.testing.assert_close(logits, plain, atol=1e-4, rtol=0)
        right += int((logits.argmax(-1) == value).sum())
        held, full = held + cache.nbytes, full + cache.stats().bytes_full
    # What docs/lm_kv/policies/hydragen.md says.
    assert right / values.numel() == pytest.approx(0.986, abs=0.001)
    assert held / full == pytest.approx(0.065, abs=0.0005)
