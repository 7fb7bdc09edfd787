from dcache import lm_kv
from tests.lm_kv.language_models import batch, llama, prefilled


def kept(seed):
    cache = prefilled(llama(2), lm_kv.random(seed=seed), batch(), budget=10)
    return [layer.store.segments[0].positions.tolist() for layer in cache.layers]


def test_a_seed_draws_the_same_tokens_again_and_another_one_others():
    assert kept(0) == kept(0)
    assert kept(0) != kept(1)
    first, second = kept(0)
    assert first != second
