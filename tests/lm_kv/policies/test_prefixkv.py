import torch

from dcache import lm_kv
from tests.lm_kv.language_models import batch, llama, prefilled


@torch.no_grad()
def test_all_layers_are_cut_at_one_share_of_their_attention():
    model, inputs = llama(3, attention="eager"), {name: tensor[1:] for name, tensor in batch().items()}
    weights = model(inputs["input_ids"], output_attentions=True, use_cache=False).attentions
    cache = prefilled(model, lm_kv.prefixkv(sinks=0, window=0), inputs, budget=10)
    received = torch.stack([weight[0].mean(0).sum(0) for weight in weights])
    order = received.argsort(-1, descending=True)
    ordered = received.gather(-1, order)
    before = (ordered.cumsum(-1) - ordered) / ordered.sum(-1, keepdim=True)
    # 10 tokens a head of 3 layers: the 30 smallest shares of what lies before a token, in whatever layer.
    threshold = before.flatten().sort().values[29]
    counts = (before <= threshold).sum(-1)
    assert counts.sum() == 30
    assert len(set(counts.tolist())) > 1
    for layer, some, count in zip(cache.layers, order, counts.tolist(), strict=True):
        segment = layer.store.segments[0]
        assert segment.lengths.tolist() == [[count, count]]
        for run in segment.positions.split(count):
            assert set(run.tolist()) == set(some[:count].tolist())


def test_first_and_last_tokens_are_kept():
    cache = prefilled(llama(2), "prefixkv", batch(), budget=10)
    for layer in cache.layers:
        assert layer.store.tail.positions.tolist() == [[26], [39]]
        assert {0, 1, 2, 3} <= set(layer.store.segments[0].positions[:4].tolist())
