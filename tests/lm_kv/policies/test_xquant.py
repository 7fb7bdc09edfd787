import threading

import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.kernels.lowbit import pack, unpack
from dcache.lm_kv.model.rotary import find_rotary
from tests.lm_kv.language_models import (
    batch,
    check_a_padded_row_is_as_alone,
    check_they_go_on_alike,
    copies,
    family,
    generate,
    llama,
    prefilled,
)
from tests.lm_kv.policies.calibrated_keys import PADS, read
from tests.lm_kv.policies.rematerialising import check_a_step_reads, inputs_of_attention, packed_bytes

# A KV head for each query head: the input of attention is stored.
HEADS = {"num_key_value_heads": 4}
XQUANT = lm_kv.xquant(bits=4, group=8, residual=4, every=4)


def test_a_padded_row_is_as_alone_and_few_bits_move_logits():
    model, inputs = llama().double(), batch()
    both, caches = check_a_padded_row_is_as_alone(model, inputs, XQUANT)
    _, full = generate(model, inputs, None)
    assert (both - full).abs().max() > 0.1
    # The prompt, and twice four of eleven decoded tokens.
    assert [len(layer.store.segments) for layer in caches[0].layers] == [3, 3, 3]
    assert caches[0].stats().kept == (38.0, 51.0)


@pytest.mark.parametrize(
    "name", ["llama", "gemma2", "gpt_oss", "phi", "llama4", "qwen2", "llama_mha", "gpt_neox", "phi3"]
)
def test_a_step_for_each_number_is_the_plain_cache(name):
    model, inputs = family(name), batch()
    _, full = generate(model, inputs, None)
    cache = lm_kv.KVCache(model, lm_kv.xquant(bits=8, group=1, residual=2, every=3))
    _, near = generate(model, inputs, cache)
    torch.testing.assert_close(near, full, atol=2e-3, rtol=0)
    assert min(len(cache.layers[i].store.segments) for i in cache.compressed_layers) == 4


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "columns"])
def test_keys_are_made_of_inputs_and_turned_to_their_positions(counted):
    model = llama(1).double()
    cache = lm_kv.KVCache(model, lm_kv.xquant(bits=8, group=1, residual=0, every=4))
    given, attention = [], model.model.layers[0].self_attn
    hook = attention.register_forward_pre_hook(
        lambda m, a, k: given.append(k["hidden_states"]), with_kwargs=True
    )
    read(model, cache, 8, counted)
    hook.remove()
    inputs, rotary = torch.cat(given, 1), find_rotary(model.model, [0])
    for row, pads in ((0, PADS), (1, 0)):
        keys = attention.k_proj(inputs[row, pads:]).unflatten(1, (2, -1)).transpose(0, 1)[None]
        first = 0 if counted else pads
        expected = rotary.turn(0, keys, first + torch.arange(keys.shape[2])[None], "forward")[0]
        values = attention.v_proj(inputs[row, pads:]).unflatten(1, (2, -1)).transpose(0, 1)
        segments = cache.layers[0].store.segments
        assert len(segments) == 3
        # What is rounded are the inputs on the projection's left singular vectors.
        left = torch.linalg.svd(attention.k_proj.weight.T, full_matrices=False).U
        codes = [unpack(s.keys.codes).split(s.keys.counts.tolist())[row] for s in segments]
        torch.testing.assert_close(torch.cat(codes), inputs[row, pads:] @ left, atol=1e-3, rtol=0)
        for part, right in ((0, expected), (1, values)):
            made = [s.pad(s.decoded()[part])[row, :, : int(s.lengths[row, 0])] for s in segments]
            torch.testing.assert_close(torch.cat(made, 1), right, atol=1e-3, rtol=0)


def test_a_padded_row_of_inputs_is_as_alone():
    model, inputs = llama(**HEADS).double(), batch()
    both, caches = check_a_padded_row_is_as_alone(model, inputs, XQUANT)
    _, full = generate(model, inputs, None)
    assert (both - full).abs().max() > 0.1
    assert [len(layer.store.segments) for layer in caches[0].layers] == [3, 3, 3]
    for layer in caches[0].layers:
        for segment in layer.store.segments:
            assert segment.keys.codes is segment.values.codes


@torch.no_grad()
def test_a_step_reads_keys_and_values_of_rounded_inputs():
    model, ids = llama(**HEADS, attention_bias=True).double(), batch()["input_ids"][1:]
    cache = lm_kv.KVCache(model, lm_kv.xquant(bits=2, group=8, residual=0))
    rounded = [
        unpack(pack(given[0], 2, 8, torch.tensor([40]))) for given in inputs_of_attention(model, ids, cache)
    ]
    check_a_step_reads(model, cache, ids, rounded)


def test_inputs_take_half_of_what_keys_and_values_would():
    policy, inputs = lm_kv.xquant(bits=4, group=32, residual=0), batch(pads=0, length=256)
    cache = prefilled(llama(1, **HEADS), policy, inputs)
    # In each row 256 tokens of 64 numbers, half a byte each; a step and a low of two bytes for 32 of them.
    codes = 2 * 256 * 64 / 2 + 2 * 256 * 64 / 32 * 4
    (segment,) = cache.layers[0].store.segments
    held = sum(
        tensor.nbytes for part in (segment.keys, segment.values) for tensor in segment.owned(part).values()
    )
    # Lengths of rows, and counts, rows and first positions as above.
    assert held == codes + 8 * 2 + 8 * 2 * (2 + 2 + 1)
    # 5 of 32 bits, of half as many numbers.
    assert cache.stats().bytes_held / cache.stats().bytes_full == pytest.approx(5 / 64, abs=0.003)


@pytest.mark.parametrize("heads", [2, 4])
def test_a_layer_is_encoded_before_the_next_one_runs(heads):
    inputs, policy = batch(pads=0, length=256), lm_kv.xquant(bits=2, group=32, residual=0)
    caches = [prefilled(llama(layers, num_key_value_heads=heads), policy, inputs) for layers in (1, 4)]
    first, four = (cache.stats() for cache in caches)
    # Keys, values and the input of one layer, and the codes of three.
    codes = four.bytes_held / 4
    assert four.peak_bytes - first.peak_bytes == pytest.approx(3 * codes, rel=0.05)
    assert four.peak_bytes < four.bytes_full * 0.6


def test_bytes_are_those_of_codes_and_steps():
    policy = lm_kv.xquant(bits=4, group=32, residual=0)
    cache = prefilled(llama(1), policy, batch(pads=0, length=256))
    # In each row 256 tokens of 32 latents of keys and 32 of values, half a byte each; a step and a low of two
    # bytes for 32 of them.
    codes = 2 * 256 * 64 / 2 + 2 * 256 * 64 / 32 * 4
    (segment,) = cache.layers[0].store.segments
    held = sum(
        tensor.nbytes for part in (segment.keys, segment.values) for tensor in segment.owned(part).values()
    )
    # Counts, rows, first positions, and lengths of runs.
    assert held == codes + 8 * 2 * (2 + 2 + 1 + 1)
    assert cache.stats().bytes_held / cache.stats().bytes_full == pytest.approx(0.156, abs=0.005)


@torch.no_grad()
def test_a_forked_a_loaded_and_a_reordered_cache_go_on_alike(tmp_path):
    model = llama()
    cache = prefilled(model, XQUANT, batch())
    check_they_go_on_alike(model, [cache, *copies(cache, model, tmp_path / "cache")], steps=9, atol=1e-5)
    model = llama(**HEADS)
    cache = prefilled(model, XQUANT, batch())
    others = copies(cache, model, tmp_path / "inputs")
    # Codes are saved once, for keys.
    assert packed_bytes(others[1]) == packed_bytes(cache)
    check_they_go_on_alike(model, [cache, *others], steps=9, atol=1e-5)


@pytest.mark.parametrize("more", [{"prompt_lookup_num_tokens": 3}, {"num_beams": 3}], ids=["drafts", "beams"])
def test_drafts_and_beams_read_their_own_inputs(more):
    model, inputs = llama(**HEADS), batch()
    given = inputs if "num_beams" in more else {"input_ids": inputs["input_ids"][1:].repeat(1, 2)}
    options = {**given, **more, "max_new_tokens": 12, "do_sample": False}
    cache = lm_kv.KVCache(model, lm_kv.xquant(bits=8, group=1, residual=16, every=4))
    assert torch.equal(model.generate(past_key_values=cache, **options), model.generate(**options))
    assert len(cache.layers[0].store.segments) > 0


@torch.no_grad()
def test_rows_behind_a_shared_text_keep_their_own_inputs():
    model, text = llama(**HEADS), batch()["input_ids"][1:]
    prefix = prefilled(
        model, "keydiff", {"input_ids": text, "attention_mask": torch.ones_like(text)}, budget=1.0
    )
    cache = lm_kv.hydragen(prefix, 2, codec=lm_kv.xquant(bits=8, group=1, residual=1))
    new = torch.tensor([[5, 6, 7, 5], [8, 9, 10, 6]])
    model(new[:, :3], past_key_values=cache)
    cache.compress()
    assert [segment.width for segment in cache.layers[0].store.segments] == [2]
    wanted = model(torch.cat([text.expand(2, -1), new], 1)).logits[:, -1:]
    torch.testing.assert_close(model(new[:, 3:], past_key_values=cache).logits, wanted, atol=2e-4, rtol=0)


@torch.no_grad()
def test_threads_that_run_one_model_keep_their_own_inputs():
    model, text = llama(1, **HEADS), batch()["input_ids"][1:]
    base = lm_kv.KVCache(model, lm_kv.xquant(bits=8, group=1, residual=0))
    model(text, past_key_values=base)
    caches, new = [base.fork(), base.fork()], torch.tensor([[5, 6, 7], [8, 9, 10]])
    both = threading.Barrier(2, timeout=60)

    def wait(*_: object) -> None:
        both.wait()

    # Each thread is behind the note of its input before either reads it.
    hook = model.model.layers[0].self_attn.register_forward_pre_hook(wait)

    def read(row: int) -> None:
        with torch.no_grad():
            model(new[row : row + 1], past_key_values=caches[row])

    threads = [threading.Thread(target=read, args=(row,)) for row in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hook.remove()
    for row, cache in enumerate(caches):
        wanted = model(torch.cat([text, new[row : row + 1], torch.tensor([[4]])], 1)).logits[:, -1:]
        got = model(torch.tensor([[4]]), past_key_values=cache).logits
        torch.testing.assert_close(got, wanted, atol=2e-4, rtol=0)


def test_texts_without_inputs_of_attention_are_refused():
    model, inputs = llama(2, **HEADS), batch()
    cache = lm_kv.KVCache(model, XQUANT)
    with pytest.raises(DcacheError, match="which do not come row by row here"):
        lm_kv.prepacking(cache, inputs["input_ids"], inputs["attention_mask"])
    with pytest.raises(DcacheError, match="which texts computed elsewhere lack"):
        lm_kv.join(model, [inputs["input_ids"][1]], cache=lm_kv.KVCache(model, XQUANT))


def test_a_budget_that_would_tear_heads_apart_is_refused():
    for policy, options in (("xquant", {"budget": 0.5}), ("snapkv", {"budget": 8, "codec": XQUANT})):
        with pytest.raises(DcacheError, match="xquant stores all tokens of several layers or heads together"):
            lm_kv.KVCache(llama(1), policy, **options)
    with pytest.raises(DcacheError, match="bits must be one of"):
        lm_kv.xquant(bits=5)
