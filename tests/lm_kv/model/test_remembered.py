import gc
import weakref

import pytest
import torch

from dcache import lm_kv
from dcache.lm_kv.model.directions import bases_of
from dcache.lm_kv.model.remembered import Remembered
from tests.lm_kv.language_models import batch, family, generate, llama


def changes(model):
    """Ways in which weights change; some leave no trace in torch's version counters."""
    linear = model.model.layers[0].self_attn.k_proj
    return {
        "loaded": lambda: model.load_state_dict({n: 1.5 * t for n, t in model.state_dict().items()}),
        "added to data": lambda: linear.weight.data.add_(0.1 * torch.ones_like(linear.weight)),
        "data replaced": lambda: setattr(linear.weight, "data", linear.weight.data * 1.1),
        "module replaced": lambda: setattr(
            model.model.layers[1].self_attn, "v_proj", torch.nn.Linear(64, 32, bias=False)
        ),
        "another dtype": lambda: model.to(torch.bfloat16),
        "moved": lambda: setattr(linear.weight, "data", linear.weight.data.clone()),
    }


@pytest.mark.parametrize("name", sorted(changes(llama(2))))
def test_a_value_is_found_anew_where_weights_changed(name):
    model = llama(2)
    remembered, values = Remembered(), iter(range(9))
    own, other = model.model, llama(1).model
    assert [remembered.of(one, lambda: next(values)) for one in (own, other, own, other)] == [0, 1, 0, 1]
    changes(model)[name]()
    assert [remembered.of(one, lambda: next(values)) for one in (own, other, own, other)] == [2, 1, 2, 1]


def test_weights_are_told_apart_beside_large_biases():
    """Qwen2.5's keys have biases in the hundreds in some channels."""
    model = family("qwen2")
    for layer in model.model.layers:
        layer.self_attn.k_proj.bias[3::8] = 400.0
    model.to(torch.bfloat16)
    remembered, values = Remembered(), iter(range(9))
    assert [remembered.of(model.model, lambda: next(values)) for _ in range(2)] == [0, 0]
    weight = model.model.layers[2].self_attn.k_proj.weight
    weight.copy_(weight.roll(1, 1))
    assert remembered.of(model.model, lambda: next(values)) == 1


def test_a_model_is_not_kept_alive():
    model = llama(1)
    remembered, reference = Remembered(), weakref.ref(model)
    remembered.of(model.model, lambda: 1)
    del model
    gc.collect()
    assert reference() is None


def test_a_cache_of_changed_weights_stores_by_their_directions():
    model, other = llama(2), llama(2)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.roll(1, -1))
    policy = lm_kv.matryoshka(share=0.5)
    lm_kv.KVCache(model, policy)
    model.load_state_dict(other.state_dict())
    logits = [generate(one, batch(), lm_kv.KVCache(one, policy), 3)[1] for one in (model, other)]
    torch.testing.assert_close(logits[0], logits[1], atol=0, rtol=0)
    for layer, parts in bases_of(other.model, [0, 1], 0.5).items():
        for part, heads in parts.items():
            for one, same in zip(bases_of(model.model, [0, 1], 0.5)[layer][part], heads, strict=True):
                assert torch.equal(one.directions, same.directions)
