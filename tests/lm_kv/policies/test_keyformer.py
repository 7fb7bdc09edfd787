import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import batch, generate, llama, prefilled


def test_a_prompts_mass_is_its_queries_and_grows_by_one_a_token():
    model, inputs = llama(2), batch(pads=0)
    cache = prefilled(model, lm_kv.keyformer(history=64, every=0), inputs, budget=1.0)
    cache.compress()
    for layer in cache.layers:
        sums = layer.store.stored().score[..., 0].sum(-1)
        torch.testing.assert_close(sums, torch.full((2, 2), 40.0), atol=1e-3, rtol=0)


def test_recent_tokens_are_three_tenths_of_the_budget():
    cache = prefilled(llama(2), lm_kv.keyformer(), batch(), budget=10)
    assert cache.layers[0].store.tail.positions.tolist() == [[24, 25, 26], [37, 38, 39]]


def test_the_seed_decides_where_noise_does():
    model, inputs = llama(2), batch()
    runs = [generate(model, inputs, lm_kv.KVCache(model, lm_kv.keyformer(seed=s, every=2), budget=8))[1]
            for s in (0, 0, 1)]  # fmt: skip
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize(
    ("options", "message"), [({"history": 0}, "history must be"), ({"growth": -1.0}, "growth must be")]
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(DcacheError, match=message):
        lm_kv.keyformer(**options)
