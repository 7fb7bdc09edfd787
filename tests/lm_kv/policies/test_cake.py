import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import batch, llama, prefilled


@torch.no_grad()
def test_layers_get_their_share_and_keep_what_is_attended_to_or_varies():
    model, inputs = llama(3, attention="eager"), {name: tensor[1:] for name, tensor in batch().items()}
    weights = model(inputs["input_ids"], output_attentions=True, use_cache=False).attentions
    policy = lm_kv.cake(window=4, gamma=3.0, pool=1, tau1=2.0, tau2=0.5)
    cache = prefilled(model, policy, inputs, budget=10, floor=0.0)
    wanted = []
    for weight in weights:
        older = weight[0, :, -4:, :36]
        mean = older.mean(1)
        wanted.append(float((-mean * mean.log()).sum() ** 0.5 * older.var(1).sum() ** 2))
    shares = [30 * one / sum(wanted) for one in wanted]
    kept = [layer.store.kept()[0].tolist() for layer in cache.layers]
    # Four tokens are protected, so that no layer goes below; nothing is lost in rounding.
    assert sum(head[0] for head in kept) == 30
    assert all(head[0] == head[1] >= 4 for head in kept)
    if min(shares) >= 4:
        assert all(abs(head[0] - share) <= 1 for head, share in zip(kept, shares, strict=True))
    for weight, layer in zip(weights, cache.layers, strict=True):
        older = weight[0].unflatten(0, (2, 2))[:, :, -4:, :36]
        score = (older.mean(2) + 3.0 * older.var(2)).mean(1)
        count = layer.store.kept()[0, 0].item() - 4
        for head, run in enumerate(layer.store.segments[0].positions.split(count)):
            assert set(run.tolist()) == set(score[head].topk(count).indices.tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, "window must be"),
        ({"pool": 4}, "pool must be odd, got 4"),
        ({"gamma": -1.0}, "gamma must be"),
        ({"gamma": float("nan")}, "gamma must be"),
        ({"tau1": 0.0}, "tau1 and tau2 must be"),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(DcacheError, match=message):
        lm_kv.cake(**options)
