import torch

from tests.lm_kv.language_models import batch, llama, prefilled


@torch.no_grad()
def test_half_the_budget_is_heavy_hitters_and_half_is_recent():
    model, inputs = llama(2, attention="eager"), {name: tensor[1:] for name, tensor in batch().items()}
    weights = model(inputs["input_ids"], output_attentions=True, use_cache=False).attentions[0]
    cache = prefilled(model, "h2o", inputs, budget=10)
    store = cache.layers[0].store
    assert store.tail.positions.tolist() == [[35, 36, 37, 38, 39]]
    received = weights.unflatten(1, (2, 2)).mean(2).sum(2)[0, :, :35]
    for head, run in enumerate(store.segments[0].positions.split(5)):
        assert set(run.tolist()) == set(received[head].topk(5).indices.tolist())
