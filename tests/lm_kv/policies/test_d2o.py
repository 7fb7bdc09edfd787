import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import batch, llama, prefilled


@torch.no_grad()
def test_layers_with_even_attention_get_more_and_budgets_add_up():
    model, inputs = llama(3, attention="eager"), {name: tensor[1:] for name, tensor in batch().items()}
    weights = model(inputs["input_ids"], output_attentions=True, use_cache=False).attentions
    cache = prefilled(model, lm_kv.d2o(sinks=0, window=0, ratio=2.0), inputs, budget=10, floor=0.0)
    received = [weight[0].unflatten(0, (2, 2)).mean(1).sum(1).double() for weight in weights]
    variance = [float((one / one.mean(-1, keepdim=True)).var(-1, unbiased=False).mean()) for one in received]
    wanted = [2.0 if one < sum(variance) / 3 else 1.0 for one in variance]
    kept = [int(layer.store.kept()[0, 0]) for layer in cache.layers]
    assert sum(kept) == 30
    assert all(abs(n - 30 * w / sum(wanted)) <= 1 for n, w in zip(kept, wanted, strict=True))
    assert len(set(wanted)) == 2


def test_it_keeps_the_tokens_of_h2o_and_changes_what_they_are():
    model, inputs = llama(1), batch()
    own = prefilled(model, lm_kv.d2o(window=0.5, sinks=0, allocation="uniform"), inputs, budget=10)
    plain = prefilled(model, lm_kv.h2o(), inputs, budget=10)
    merged, dropped = (cache.layers[0].store.segments[0] for cache in (own, plain))
    assert torch.equal(merged.positions, dropped.positions)
    changed = (merged.keys != dropped.keys).any(-1)
    assert changed.any()
    assert not changed.all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"ratio": 0.5}, "ratio must be a number of at least 1"), ({"threshold": 2.0}, "threshold must be")],
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(DcacheError, match=message):
        lm_kv.d2o(**options)
