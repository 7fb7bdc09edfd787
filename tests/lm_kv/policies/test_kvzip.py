import torch

from dcache import lm_kv
from tests.lm_kv.language_models import batch, llama, prefilled


@torch.no_grad()
def test_what_the_repeated_text_attends_to_is_kept():
    model, inputs = llama(1, attention="eager"), {name: tensor[1:] for name, tensor in batch().items()}
    twice = torch.cat([inputs["input_ids"]] * 2, 1)
    weights = model(twice, output_attentions=True, use_cache=False).attentions[0]
    received = weights[0, :, 40:, :40].unflatten(0, (2, 2)).amax((1, 2))
    cache = prefilled(model, lm_kv.kvzip(allocation="uniform"), inputs, budget=10)
    for head, run in enumerate(cache.layers[0].store.segments[0].positions.split(10)):
        assert set(run.tolist()) == set(received[head].topk(10).indices.tolist())


def test_its_budget_is_global_unless_it_is_told_otherwise():
    assert lm_kv.kvzip().allocation == "global"
