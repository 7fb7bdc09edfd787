"""Tensors that several layers have in common: counted once, saved once, still common after rows moved."""

import pytest
import torch
from safetensors import safe_open

from dcache import DcacheError, DcacheWarning, lm_kv
from tests.lm_kv.language_models import (
    batch,
    check_a_padded_row_is_as_alone,
    check_they_go_on_alike,
    copies,
    generate,
    llama,
    prefilled,
)

POLICIES = {
    "xkv": lm_kv.xkv(layers=2, rank=12, value_rank=16, residual=4),
    "minicache": lm_kv.minicache(gamma=0.3, residual=4),
}
# The layers whose segments share, of a model with four.
PAIRS = {"xkv": [(0, 1), (2, 3)], "minicache": [(2, 3)]}


def common(cache, name):
    """What the keys and values of a layer share with its neighbour's."""
    joint = cache.policy.joint
    return [
        [getattr(part, field) for part in (segment.keys, segment.values) for field in sorted(joint.shared)]
        for first, second in PAIRS[name]
        for layer in (first, second)
        for segment in cache.layers[layer].store.segments
    ]


def check_common(cache, name):
    for first, second in zip(*[iter(common(cache, name))] * 2, strict=True):
        assert all(a is b or a.data_ptr() == b.data_ptr() for a, b in zip(first, second, strict=True))


def unique_bytes(cache):
    tensors = [t for layer in cache.layers for t in layer.storages()]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def packed_bytes(cache):
    segments = [segment for layer in cache.layers for segment in layer.store.segments]
    return sum(t.untyped_storage().nbytes() for segment in segments for t in segment.storages())


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_padded_row_equals_its_single_run_and_what_is_decoded_stays_as_it_came(name):
    both, caches = check_a_padded_row_is_as_alone(llama(4).double(), batch(), POLICIES[name])
    _, full = generate(llama(4).double(), batch(), None)
    assert (both - full).abs().max() > 1e-3
    assert caches[0].stats().kept == (38.0, 51.0)
    assert caches[0].stats().evictions == 0
    for pair in PAIRS[name]:
        for layer in pair:
            (segment,) = caches[0].layers[layer].store.segments
            assert segment.lengths.tolist() == [[23, 23], [36, 36]]
            assert segment.places().tolist() == [*[*range(23)] * 2, *[*range(36)] * 2]
            assert caches[0].layers[layer].store.tail.free == 15


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_shared_tensors_are_counted_once_and_go_on_being_shared(name):
    cache = prefilled(llama(4), POLICIES[name], batch())
    check_common(cache, name)
    assert cache.nbytes == unique_bytes(cache)
    shared = sum(t.untyped_storage().nbytes() for tensors in common(cache, name)[::2] for t in tensors)
    assert shared > 0
    all_tensors = [
        tensor
        for layer in cache.layers
        for segment in layer.store.segments
        for part in (segment.keys, segment.values)
        for tensor in segment.codec.tensors(part).values()
    ]
    others = sum(t.untyped_storage().nbytes() for s in cache.layers for t in s.store.tail.storages())
    assert cache.nbytes < others + sum(t.untyped_storage().nbytes() for t in all_tensors)
    before = cache.nbytes
    cache.batch_select_indices(torch.tensor([1, 0, 1]))
    check_common(cache, name)
    # A row more in the tails and in what is kept of each row, but no factor more.
    assert cache.nbytes < before * 1.5
    cache.batch_select_indices(torch.tensor([1]))
    check_common(cache, name)
    assert cache.nbytes == unique_bytes(cache)
    fork = cache.fork()
    assert fork.nbytes == cache.nbytes


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_shared_tensors_are_saved_once(name, tmp_path):
    model = llama(4)
    cache = prefilled(model, POLICIES[name], batch())
    path = tmp_path / "cache.safetensors"
    others = copies(cache, model, path)
    assert others[1].nbytes == unique_bytes(others[1])
    assert packed_bytes(others[1]) == packed_bytes(cache)
    check_common(others[1], name)
    with safe_open(path, "pt") as file:
        keys = list(file.keys())
        names = [key for key in keys if key.rpartition(".")[2] in cache.policy.joint.shared]
    # Of keys and of values, in the first layer of each pair.
    assert len(names) == 2 * len(cache.policy.joint.shared) * len(PAIRS[name])
    check_they_go_on_alike(model, [cache, *others], 3, 1.5e-5)


@torch.no_grad()
def test_each_prompt_has_a_segment_of_its_own():
    model, inputs = llama(4), {name: tensor[1:] for name, tensor in batch().items()}
    cache = lm_kv.KVCache(model, lm_kv.xkv(layers=4, rank=999, value_rank=999, residual=2))
    text = inputs["input_ids"]
    for part in text.split([16, 1, 13, 10], 1):
        out = model(part, past_key_values=cache).logits
    torch.testing.assert_close(out, model(text).logits[:, -10:], atol=1e-4, rtol=0)
    # Two tokens of the first prompt and the one decoded leave with the second's.
    assert [s.width for s in cache.layers[3].store.segments] == [14, 14, 10]
    assert [s.first.unique().tolist() for s in cache.layers[3].store.segments] == [[0], [14], [28]]
    with pytest.raises(DcacheError, match="reaches into compressed tokens"):
        cache.crop(-3)
    cache.crop(-2)
    assert cache.get_seq_length() == 38


def test_drafts_are_taken_back_and_only_the_prompt_is_encoded():
    model, inputs = llama(4), {"input_ids": batch()["input_ids"][1:].repeat(1, 2)}
    exact = lm_kv.KVCache(model, lm_kv.xkv(layers=2, rank=999, value_rank=999, residual=16))
    options = {"max_new_tokens": 12, "do_sample": False}
    own = model.generate(**inputs, past_key_values=exact, prompt_lookup_num_tokens=3, **options)
    assert torch.equal(own, model.generate(**inputs, **options))
    assert [segment.width for segment in exact.layers[0].store.segments] == [64]


def test_beams_read_their_own_rows():
    model, inputs = llama(4), batch()
    options = {"num_beams": 3, "max_new_tokens": 6, "do_sample": False}
    exact = lm_kv.KVCache(model, lm_kv.xkv(layers=2, rank=999, value_rank=999))
    assert torch.equal(
        model.generate(**inputs, past_key_values=exact, **options), model.generate(**inputs, **options)
    )
    check_common(exact, "xkv")


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_an_eviction_beside_it_is_refused(name):
    with pytest.raises(
        DcacheError, match=f"{name} stores all tokens of several layers or heads together: leave budget"
    ):
        lm_kv.KVCache(llama(4), name, budget=0.5)
    for whole in (1, 64):
        with pytest.raises(DcacheError, match=f"{name} stores all tokens of several"):
            lm_kv.KVCache(llama(4), name, budget=whole)
    with pytest.raises(DcacheError, match=f"{name} stores all tokens"):
        lm_kv.KVCache(llama(4), "snapkv", budget=8, codec=POLICIES[name])


def test_a_model_without_a_group_is_said():
    model = llama(2)
    with pytest.warns(
        DcacheWarning, match="minicache encodes no layer of this model.*2 of the layers; a smaller start"
    ):
        cache = lm_kv.KVCache(model, POLICIES["minicache"])
    assert generate(model, batch(), cache, 2)[0].equal(generate(model, batch(), None, 2)[0])


def test_dense_layers_are_in_no_group():
    cache = prefilled(llama(4), POLICIES["xkv"], batch(), dense_layers=(0,))
    assert [len(layer.store.segments) for layer in cache.layers] == [0, 1, 1, 1]
    assert cache.layers[1].store.segments[0].keys.basis is cache.layers[2].store.segments[0].keys.basis
    assert cache.layers[3].store.segments[0].lent == frozenset()
