import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import batch, llama, prefilled
from tests.lm_kv.policies.common import check_a_part_is_read


def test_all_tokens_are_kept_and_a_part_is_read():
    check_a_part_is_read(lm_kv.loopserve(queries=4, window=4, every=2))


@torch.no_grad()
def test_what_is_read_is_what_the_last_queries_attended_to():
    model, inputs = llama(1), {name: tensor[1:] for name, tensor in batch().items()}
    policy = lm_kv.loopserve(queries=4, window=4)
    new = {"input_ids": torch.tensor([[6]]), "position_ids": torch.tensor([[40]])}
    logits = model(**new, past_key_values=prefilled(model, policy, inputs, budget=11)).logits
    # Seven tokens beside the window's four: those that snapkv keeps, which the new token sees beside itself.
    # The new token takes one of eleven: six of the older ones are read.
    evicted = prefilled(model, lm_kv.snapkv(window=4, pool=1), inputs, budget=10)
    torch.testing.assert_close(logits, model(**new, past_key_values=evicted).logits, atol=1.5e-5, rtol=0)


def test_no_query_is_refused():
    with pytest.raises(DcacheError, match="queries must be"):
        lm_kv.loopserve(queries=0)
