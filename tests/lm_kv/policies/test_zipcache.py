import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import batch, check_a_padded_row_is_as_alone, generate, llama, prefilled


@torch.no_grad()
def test_tokens_with_the_most_attention_a_query_have_more_bits():
    model, inputs = llama(1, attention="eager"), {name: tensor[1:] for name, tensor in batch().items()}
    (weights,) = model(inputs["input_ids"], output_attentions=True, use_cache=False).attentions
    cache = prefilled(model, lm_kv.zipcache(window=0, group=8), inputs, budget=12)
    mean = weights[0].unflatten(0, (2, 2)).mean(1).sum(1) / torch.arange(40, 0, -1)
    high, low = cache.layers[0].store.segments
    assert (high.codec.bits, low.codec.bits) == (4, 2)
    for head, run in enumerate(high.positions.split(12)):
        assert set(run.tolist()) == set(mean[head].topk(12).indices.tolist())
    assert low.lengths.tolist() == [[28, 28]]


def test_a_padded_row_is_as_alone_while_tokens_fall():
    # In float64: a sum in another order may move a float32 number across the middle between two levels.
    model, inputs = llama().double(), batch()
    policy = lm_kv.zipcache(every=4, group=4, residual=4, window=4)
    both, caches = check_a_padded_row_is_as_alone(model, inputs, policy, budget=0.4)
    _, full = generate(model, inputs, None)
    assert (both - full).abs().max() > 0.1
    assert caches[0].stats().kept == (38.0, 51.0)


def test_few_bits_must_be_fewer():
    with pytest.raises(DcacheError, match="low must be below bits=4, got 4"):
        lm_kv.zipcache(low=4)
