import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import batch, llama, prefilled


def positions(cache, layer: int) -> list[list[int]]:
    segment = cache.layers[layer].store.segments[0]
    return [run.tolist() for run in segment.positions.split(segment.sizes)]


@torch.no_grad()
def test_whole_windows_of_the_most_attended_neighbours_are_kept():
    model, inputs = llama(1, attention="eager"), {name: tensor[1:] for name, tensor in batch().items()}
    (weights,) = model(inputs["input_ids"], output_attentions=True, use_cache=False).attentions
    cache = prefilled(model, lm_kv.windowkv(window=4, review=4, best=2), inputs, budget=12)
    received = weights[0].unflatten(0, (2, 2)).mean(1)[:, -4:, :36].sum(1)
    best = received.unflatten(-1, (-1, 4)).topk(2, -1).values.mean(-1)
    for head, run in enumerate(positions(cache, 0)):
        chosen = sorted(best[head].topk(2).indices.tolist())
        assert run == [4 * window + token for window in chosen for token in range(4)]


def test_layers_of_a_group_keep_what_the_first_one_chose():
    model, inputs = llama(3), batch()
    grouped = prefilled(model, lm_kv.windowkv(window=4, review=3, layers=2), inputs, budget=10)
    each = prefilled(model, lm_kv.windowkv(window=4, review=3, layers=1), inputs, budget=10)
    assert positions(grouped, 0) == positions(grouped, 1) == positions(each, 0)
    assert positions(each, 1) != positions(each, 0)
    # The third layer begins a group of its own; the prompt's attention is that of all tokens.
    assert positions(grouped, 2) == positions(each, 2)
    # A prompt's scores do not outlive its eviction.
    assert grouped.layers[0].shared.group_scores is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window must be"),
        ({"review": 0}, "review must be"),
        ({"best": 9}, "best must be a whole number from 1 to review=8"),
        ({"layers": 0}, "layer_group must be"),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(DcacheError, match=message):
        lm_kv.windowkv(**options)


def test_layers_that_keep_the_same_tokens_need_equal_budgets():
    with pytest.raises(DcacheError, match="choose the allocation uniform, or layer_group=1"):
        lm_kv.KVCache(llama(2), "windowkv", budget=0.5, allocation="heads")
