import pytest
import torch
from transformers import DynamicCache

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import batch, llama, prefilled
from tests.lm_kv.policies.common import check_a_part_is_read


def test_all_tokens_are_kept_and_a_part_is_read():
    check_a_part_is_read(lm_kv.actqkv(page=4, window=4))


@torch.no_grad()
@pytest.mark.parametrize("budget", [64, 1.0])
def test_a_second_call_that_may_read_everything_is_exact(budget):
    model, inputs = llama(), {name: tensor[1:] for name, tensor in batch().items()}
    new = {"input_ids": torch.tensor([[6, 7, 8]]), "position_ids": torch.tensor([[40, 41, 42]])}
    full = DynamicCache(config=model.config)
    model(**inputs, past_key_values=full)
    own = prefilled(model, lm_kv.actqkv(page=4, window=4), inputs, budget=budget)
    few = prefilled(model, lm_kv.actqkv(page=4, window=4), inputs, budget=8)
    expected = model(**new, past_key_values=full).logits
    torch.testing.assert_close(model(**new, past_key_values=own).logits, expected, atol=1.5e-5, rtol=0)
    assert (model(**new, past_key_values=few).logits - expected).abs().max() > 0.1


@torch.no_grad()
def test_a_padded_row_asks_what_it_asks_alone():
    model, inputs = llama().double(), batch()
    policy = lm_kv.actqkv(page=4, queries=8, window=4)
    both, alone = (prefilled(model, policy, part, budget=0.4) for part in (inputs, single(inputs, 13)))
    # A second call, in which the first row has a pad in front.
    ids, mask = torch.tensor([[0, 7, 8], [6, 7, 8]]), torch.ones(2, 43, dtype=torch.long)
    mask[0, :13] = mask[0, 40] = 0
    new = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": torch.tensor([[27, 27, 28], [40, 41, 42]]),
    }
    logits = model(**new, past_key_values=both).logits
    expected = model(ids[:1, 1:], position_ids=torch.tensor([[27, 28]]), past_key_values=alone).logits
    torch.testing.assert_close(logits[:1, 1:], expected, atol=1e-9, rtol=0)


def single(inputs, pads):
    return {name: tensor[:1, pads:] for name, tensor in inputs.items()}


def test_options_outside_their_range_are_refused():
    for option in ("page", "queries"):
        with pytest.raises(DcacheError, match=f"{option} must be a whole number of at least 1"):
            lm_kv.actqkv(**{option: 0})
