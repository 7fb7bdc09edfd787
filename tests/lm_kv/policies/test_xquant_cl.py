import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.kernels.lowbit import pack, unpack
from dcache.lm_kv.codecs.cross_layer import Difference
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
from tests.lm_kv.policies.rematerialising import check_a_step_reads, inputs_of_attention, packed_bytes

XQUANT_CL = lm_kv.xquant_cl(bits=2, base=1, group=8, residual=4, every=4)
# A KV head for each query head, and one for all, whose keys and values are narrower than the input.
FORMS = {"inputs": {"num_key_value_heads": 4}, "directions": {"num_key_value_heads": 1}}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_padded_row_is_as_alone_and_few_bits_move_logits(form):
    model, inputs = llama(4, **FORMS[form]).double(), batch()
    both, caches = check_a_padded_row_is_as_alone(model, inputs, XQUANT_CL)
    _, full = generate(model, inputs, None)
    assert (both - full).abs().max() > 0.1
    # The prompt, and twice four of eleven decoded tokens.
    assert [len(layer.store.segments) for layer in caches[0].layers] == [3] * 4
    assert caches[0].stats().kept == (38.0, 51.0)


@pytest.mark.parametrize("name", ["llama_mha", "llama", "gemma2", "gpt_neox", "phi3", "qwen2"])
def test_a_step_for_each_number_is_the_plain_cache(name):
    model, inputs = family(name), batch()
    _, full = generate(model, inputs, None)
    cache = lm_kv.KVCache(model, lm_kv.xquant_cl(bits=8, base_bits=8, group=1, residual=2, every=3))
    _, near = generate(model, inputs, cache)
    torch.testing.assert_close(near, full, atol=2e-3, rtol=0)
    assert min(len(cache.layers[i].store.segments) for i in cache.compressed_layers) == 4


@pytest.mark.parametrize("form", sorted(FORMS))
@torch.no_grad()
def test_a_step_reads_sums_of_rounded_differences(form):
    model, ids = llama(4, **FORMS[form]).double(), batch()["input_ids"][1:]
    cache = lm_kv.KVCache(model, lm_kv.xquant_cl(bits=2, base=2, base_bits=4, group=8, residual=0))
    total, sums = torch.zeros(40, 64).double(), []
    given = inputs_of_attention(model, ids, cache)
    for one, layer, bits in zip(given, model.model.layers, (4, 4, 2, 2), strict=True):
        both = torch.cat([layer.self_attn.k_proj.weight, layer.self_attn.v_proj.weight])
        along = torch.eye(64).double()
        if form == "directions":
            along = torch.linalg.svd(both.T, full_matrices=False).U
        codes = pack((one[0] - total) @ along, bits, 8, torch.tensor([40]))
        total = total + unpack(codes) @ along.T
        sums.append(total)
    check_a_step_reads(model, cache, ids, sums)


def test_bytes_are_those_of_differences():
    policy = lm_kv.xquant_cl(bits=2, base=1, base_bits=4, group=32, residual=0)
    cache = prefilled(llama(3, **FORMS["inputs"]), policy, batch(pads=0, length=256))
    for layer, bits in zip(cache.layers, (4, 2, 2), strict=True):
        (segment,) = layer.store.segments
        # 512 tokens of 64 numbers, and a step and a low of two bytes for 32 of them.
        codes = 512 * 64 * bits / 8 + 512 * 64 / 32 * 4
        held = sum(
            tensor.nbytes
            for part in (segment.keys, segment.values)
            for tensor in segment.owned(part).values()
        )
        # Lengths of rows; counts and rows twice, first positions once.
        assert held == codes + 8 * 2 + 8 * 2 * (2 + 2 + 1)
    # (4 + 2 + 2) / 3 bits and one for steps and lows, of 32, of half as many numbers.
    assert cache.stats().bytes_held / cache.stats().bytes_full == pytest.approx(3.67 / 64, abs=0.003)


def test_a_layer_is_encoded_before_the_next_one_runs():
    inputs, policy = batch(pads=0, length=256), lm_kv.xquant_cl(bits=2, base_bits=2, group=32, residual=0)
    caches = [prefilled(llama(layers, **FORMS["inputs"]), policy, inputs) for layers in (1, 4)]
    first, four = (cache.stats() for cache in caches)
    assert four.peak_bytes - first.peak_bytes == pytest.approx(3 * four.bytes_held / 4, rel=0.05)


def test_nothing_is_carried_on_between_forwards():
    model = llama(3, **FORMS["inputs"])
    cache = prefilled(model, XQUANT_CL, batch())
    carry, held = cache._shared.carry, []
    hooks = [
        layer.register_forward_hook(lambda *_: held.append(len(carry._held.tensors)))
        for layer in model.model.layers
    ]
    fork = cache.fork()
    for step in range(2):
        model(torch.tensor([[5], [6]]), position_ids=torch.tensor([[27], [40]]) + step, past_key_values=fork)
    for hook in hooks:
        hook.remove()
    # One sum of the one segment at a time.
    assert held == [1] * 6
    assert not carry._held.tensors


@torch.no_grad()
def test_rows_behind_a_shared_text_form_its_sums_once(monkeypatch):
    model, ids, formed = llama(4, **FORMS["inputs"]), batch(pads=0)["input_ids"][:1], []
    added = Difference.added
    monkeypatch.setattr(Difference, "added", lambda self: formed.append(self) or added(self))
    policy = lm_kv.xquant_cl(bits=4, group=8, residual=4, every=0)
    prefix = lm_kv.KVCache(model, policy)
    model(ids, past_key_values=prefix)
    rows, single = lm_kv.hydragen(prefix, rows=2, codec=policy), prefix.fork()
    new, place = torch.tensor([[5], [6]]), torch.tensor([[40], [40]])
    formed.clear()
    logits = model(new, position_ids=place, past_key_values=rows).logits
    assert len(formed) == 4
    expected = model(new[:1], position_ids=place[:1], past_key_values=single).logits
    torch.testing.assert_close(logits[:1], expected, atol=1e-5, rtol=0)
    assert not rows._shared.carry._held.tensors


@pytest.mark.parametrize("form", sorted(FORMS))
@torch.no_grad()
def test_a_forked_a_loaded_and_a_reordered_cache_go_on_alike(form, tmp_path):
    model = llama(4, **FORMS[form])
    cache = prefilled(model, XQUANT_CL, batch())
    others = copies(cache, model, tmp_path / "cache")
    assert packed_bytes(others[1]) == packed_bytes(cache)
    check_they_go_on_alike(model, [cache, *others], steps=9, atol=1e-5)
    dense = prefilled(model, XQUANT_CL, batch(), dense_layers=(1,))
    again = copies(dense, model, tmp_path / "dense")
    check_they_go_on_alike(model, [dense, *again], steps=3, atol=1e-5)


def test_beams_read_their_own_rows():
    model, inputs = llama(**FORMS["inputs"]), batch()
    options = {**inputs, "num_beams": 3, "max_new_tokens": 12, "do_sample": False}
    exact = lm_kv.xquant_cl(bits=8, base_bits=8, group=1, residual=2, every=3)
    cache = lm_kv.KVCache(model, exact)
    assert torch.equal(model.generate(past_key_values=cache, **options), model.generate(**options))


def test_what_cannot_be_is_refused():
    for policy, options in (("xquant_cl", {"budget": 0.5}), ("snapkv", {"budget": 8, "codec": XQUANT_CL})):
        with pytest.raises(DcacheError, match="xquant_cl stores all tokens of several layers or heads"):
            lm_kv.KVCache(llama(1), policy, **options)
    with pytest.raises(DcacheError, match=r"xquant_cl cannot make them again: use lm_kv.kivi"):
        lm_kv.KVCache(family("qwen3"), "xquant_cl")
    for options in ({"bits": 5}, {"base": 0}, {"base_bits": 1}):
        with pytest.raises(DcacheError, match="must be"):
            lm_kv.xquant_cl(**options)
