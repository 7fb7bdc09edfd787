import torch

from tests.lm_kv.language_models import batch, llama, prefilled


@torch.no_grad()
def test_what_the_last_query_attends_to_is_kept_in_all_heads():
    model, inputs = llama(2, attention="eager"), {name: tensor[1:] for name, tensor in batch().items()}
    weights = model(inputs["input_ids"], output_attentions=True, use_cache=False).attentions[0]
    cache = prefilled(model, "tova", inputs, budget=10)
    expected = set(weights[0, :, -1].mean(0)[:39].topk(9).indices.tolist())
    store = cache.layers[0].store
    for run in store.segments[0].positions.split(9):
        assert set(run.tolist()) == expected
    assert store.tail.positions.tolist() == [[39]]
