import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import batch, llama, prefilled


def test_heads_share_a_layers_budget():
    cache = prefilled(llama(3), lm_kv.ems(window=4), batch(), budget=0.4)
    counts = torch.stack([layer.store.kept() for layer in cache.layers])
    assert counts.sum(2).tolist() == [[20, 32]] * 3
    assert len(set(counts.flatten().tolist())) > 2


@torch.no_grad()
def test_scores_are_the_larger_of_two_shares_of_the_models_own_attention():
    model, inputs = llama(1, attention="eager"), {name: tensor[1:] for name, tensor in batch().items()}
    (weights,) = model(inputs["input_ids"], output_attentions=True, use_cache=False).attentions
    cache = prefilled(model, lm_kv.ems(window=4, threshold=1.0, allocation="uniform"), inputs, budget=12)
    grouped = weights[0].unflatten(0, (2, 2)).mean(1)
    parts = [grouped.sum(1) / torch.arange(40, 0, -1), grouped[:, -4:].sum(1)]
    score = torch.maximum(*(part / part.sum(-1, keepdim=True) for part in parts))[:, :36]
    for head, run in enumerate(cache.layers[0].store.segments[0].positions.split(8)):
        assert set(run.tolist()) == set(score[head].topk(8).indices.tolist())


@pytest.mark.parametrize(
    ("options", "message"), [({"window": 0}, "window must be"), ({"threshold": -2.0}, "threshold must be")]
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(DcacheError, match=message):
        lm_kv.ems(**options)
