import pytest

from dcache import lm_kv
from tests.lm_kv.language_models import batch, generate, llama
from tests.lm_kv.policies.common import check_eight_bits


def test_eight_bits_give_the_tokens_of_full_precision_through_the_front_door():
    check_eight_bits("kivi", group=4, residual=4)


@pytest.mark.parametrize("bits", [2, 4])
def test_fewer_bits_are_further_off(bits):
    model, inputs = llama(1), batch()

    def off(count):
        cache = lm_kv.KVCache(model, lm_kv.kivi(bits=count, group=4, residual=0))
        generate(model, inputs, cache, 1)
        return sum(s.keys.step.float().mean() for s in cache.layers[0].store.segments)

    # A step is the range by 2^bits - 1, rounded up in float16.
    assert off(bits) / off(8) == pytest.approx(255 / (2**bits - 1), rel=2e-3)
