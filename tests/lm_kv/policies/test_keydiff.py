import torch

from tests.lm_kv.language_models import batch, llama, prefilled


def test_the_keys_least_like_the_mean_direction_are_kept():
    model, inputs = llama(1), batch()
    stored = prefilled(model, "keydiff", inputs, budget=1.0).layers[0].store.stored()
    cache = prefilled(model, "keydiff", inputs, budget=10)
    keys = stored.keys[1, 1]
    unit = keys / keys.norm(dim=1, keepdim=True)
    cosine = torch.cosine_similarity(keys, unit.mean(0, keepdim=True))
    expected = cosine.topk(10, largest=False).indices.tolist()
    assert set(cache.layers[0].store.segments[0].positions[30:].tolist()) == set(expected)
