from dataclasses import replace

import pytest
import torch

from dcache import lm_kv
from dcache.lm_kv.scoring.scorers import KeyDistance
from tests.lm_kv.language_models import batch, generate, llama, prefilled
from tests.lm_kv.policies.calibrated_keys import check_keys_are_cut_before_rotation, random_basis
from tests.lm_kv.policies.common import check_a_part_is_read


def test_all_tokens_are_kept_and_a_part_is_read():
    check_a_part_is_read(lm_kv.shadowkv(page=4, rank=6, window=4))


@pytest.mark.parametrize("budget", [52, 1.0])
def test_a_budget_of_the_whole_text_is_exact_though_the_rank_is_one(budget):
    model, inputs = llama(), batch()
    _, exact = generate(model, inputs, None)
    cache = lm_kv.KVCache(model, lm_kv.shadowkv(rank=1, page=4, window=4, every=4), budget=budget)
    _, own = generate(model, inputs, cache)
    torch.testing.assert_close(own, exact, atol=1.5e-5, rtol=0)
    _, part = generate(model, inputs, lm_kv.KVCache(model, cache.policy, budget=0.5))
    assert (part - exact).abs().max() > 0.1


def test_values_on_the_host_are_counted_apart():
    model, inputs = llama(1), batch()
    cache = prefilled(model, lm_kv.shadowkv(rank=2, page=4, exact=0, window=4), inputs, budget=0.4)
    stats = cache.stats()
    # 23 and 36 tokens left the tail, in two heads of 16 channels and four bytes.
    assert stats.bytes_host == (23 + 36) * 2 * 16 * 4
    (segment,) = cache.layers[0].store.segments
    keys = sum(tensor.nbytes for tensor in segment.codec.tensors(segment.keys).values())
    # A flag, a place and two float16 numbers for each; two directions of each run; the runs' lengths.
    assert keys == (23 + 36) * 2 * (1 + 4 + 2 * 2) + 4 * 2 * 16 * 2 + 4 * 8
    assert "of that, host" in str(stats)
    assert stats.bytes_host < stats.bytes_held == cache.nbytes
    assert prefilled(model, lm_kv.quest(page=4, window=4), inputs, budget=0.4).stats().bytes_host == 0


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "columns"])
def test_calibrated_directions_meet_keys_before_rotation_wherever_they_stand(tmp_path, counted):
    model = llama(1)
    path, basis = random_basis(model, tmp_path)
    policy = lm_kv.shadowkv(budget=6, rank=5, page=3, exact=0, every=8, window=2, calibration=path)
    # Packed at the prompt and twice behind it.
    check_keys_are_cut_before_rotation(model, policy, basis, 5, 17, counted)
    # Kept tokens lie far apart; what follows is taken in with some of them.
    apart = replace(policy, scorer=KeyDistance(), held=20)
    check_keys_are_cut_before_rotation(model, apart, basis, 5, 0, counted)
    check_keys_are_cut_before_rotation(model, apart, basis, 5, 9, counted)
