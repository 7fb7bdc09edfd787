import pytest
import torch

from dcache import lm_kv
from tests.lm_kv.language_models import llama
from tests.lm_kv.policies.common import check_eight_bits


def test_eight_bits_give_the_tokens_of_full_precision_through_the_front_door():
    check_eight_bits("gear", group=8, residual=4)


@torch.no_grad()
@pytest.mark.parametrize(("bits", "share"), [(4, 0.408), (2, 0.285)])
def test_the_bytes_at_4096_tokens(bits, share):
    model = llama(1, hidden_size=128, num_attention_heads=2, max_position_embeddings=4096).bfloat16()
    cache = lm_kv.KVCache(model, lm_kv.gear(bits=bits))
    model.model(input_ids=torch.randint(2, 97, (1, 4096)), past_key_values=cache)
    stats = cache.stats()
    assert stats.bytes_held / stats.bytes_full == pytest.approx(share, abs=0.002)
    assert stats.bytes_held == cache.nbytes
