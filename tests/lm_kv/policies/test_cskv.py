from dataclasses import replace

import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.scoring.scorers import KeyDistance
from tests.lm_kv.language_models import (
    batch,
    check_a_padded_row_is_as_alone,
    family,
    generate,
    llama,
    prefilled,
)
from tests.lm_kv.policies.calibrated_keys import check_keys_are_cut_before_rotation, random_basis


def test_a_padded_row_is_as_alone_and_few_directions_move_logits():
    # In float64: a sum in another order may move a float32 number across the middle between two of float16.
    model, inputs = llama().double(), batch()
    policy = lm_kv.cskv(rank=6, value_rank=10, group=8, residual=4)
    both, _ = check_a_padded_row_is_as_alone(model, inputs, policy)
    _, full = generate(model, inputs, None)
    assert (both - full).abs().max() > 0.1
    _, near = generate(
        model, inputs, lm_kv.KVCache(model, lm_kv.cskv(rank=16, value_rank=16, group=8, residual=4))
    )
    assert (near - full).abs().max() < 0.02 * full.abs().max()


def test_an_eighth_and_three_eighths_of_the_directions_take_so_many_bytes():
    policy = lm_kv.cskv(rank=2, value_rank=6, residual=0)
    stats = prefilled(llama(), policy, batch(pads=0, length=1024)).stats()
    # Of a token 8 float16 numbers for 32 of float32, a place and a share of 8 directions of 256 tokens.
    token = 8 * 2 + 4 + 8 * 16 * 2 / 256
    assert stats.bytes_held / stats.bytes_full == pytest.approx(token / 128, abs=0.02)


def test_a_calibrations_directions_are_those_of_keys(tmp_path):
    model = llama(1)
    path, _ = random_basis(model, tmp_path)
    policy = lm_kv.cskv(rank=16, value_rank=16, group=8, residual=8, calibration=path)
    cache = prefilled(model, policy, batch(pads=0))
    keys = prefilled(model, "keydiff", batch(pads=0), budget=1.0).layers[0].store.stored().keys[:, :, :32]
    segment = cache.layers[0].store.segments[0]
    torch.testing.assert_close(segment.pad(segment.decoded()[0]), keys, atol=0.05, rtol=0)
    loaded = lm_kv.KVCache.load(cache.save(tmp_path / "cache.safetensors"), model)
    other = loaded.layers[0].store.segments[0]
    torch.testing.assert_close(other.decoded()[0], segment.decoded()[0], atol=0, rtol=0)
    with pytest.raises(DcacheError, match="cskv reads a calibration, which only the cache's own policy can"):
        lm_kv.KVCache(model, "keydiff", budget=0.5, codec=policy)


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "columns"])
def test_calibrated_directions_meet_keys_before_rotation_wherever_they_stand(tmp_path, counted):
    model = llama(1)
    path, basis = random_basis(model, tmp_path)
    policy = lm_kv.cskv(rank=5, group=8, residual=4, calibration=path)
    # Packed at the prompt and four times behind it.
    check_keys_are_cut_before_rotation(model, policy, basis, 5, 32, counted)
    # Kept tokens lie far apart, then others follow; a second eviction takes from what is packed.
    apart = replace(policy, scorer=KeyDistance(), budget=0.5, every=12)
    check_keys_are_cut_before_rotation(model, apart, basis, 5, 0, counted)
    check_keys_are_cut_before_rotation(model, apart, basis, 5, 14, counted)


def test_learned_positions_are_refused():
    with pytest.raises(DcacheError, match="turn"):
        lm_kv.KVCache(family("gpt2"), "cskv")
