import torch

from dcache import lm_kv
from dcache.lm_kv.calibrating.sensitivity import layer_sensitivity
from tests.lm_kv.language_models import batch, family, llama


@torch.no_grad()
def test_a_layers_sensitivity_is_what_compressing_it_alone_moves():
    model, ids = llama(), batch()["input_ids"][1:]
    text, probe = ids[:, :32], ids[:, 32:]
    calls = []
    moved = layer_sensitivity(model, text, probe, lambda: calls.append(1))
    assert len(calls) == 3
    whole = model(ids, use_cache=False).logits[0, 32:].log_softmax(-1)
    for layer, value in enumerate(moved):
        others = tuple(i for i in range(3) if i != layer)
        cache = lm_kv.KVCache(model, "keydiff", budget=0.25, dense_layers=others)
        with cache.hold():
            model(text, past_key_values=cache)
            cache.compress()
            near = model(probe, past_key_values=cache).logits[0].log_softmax(-1)
        divergence = torch.nn.functional.kl_div(near, whole, log_target=True, reduction="none").sum(-1).mean()
        assert value > 0.01
        torch.testing.assert_close(torch.tensor(value), divergence, atol=1e-5, rtol=1e-4)


def test_layers_of_the_librarys_have_none():
    ids = batch()["input_ids"][1:]
    assert len(layer_sensitivity(family("gemma2"), ids[:, :32], ids[:, 32:])) == 1
