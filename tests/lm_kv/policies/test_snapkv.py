import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import batch, llama, prefilled


def test_the_window_stays_in_the_tail_where_it_can_be_cropped():
    cache = prefilled(llama(2), lm_kv.snapkv(window=4), batch(), budget=10)
    for layer in cache.layers:
        assert layer.store.tail.positions.tolist() == [[23, 24, 25, 26], [36, 37, 38, 39]]
        assert layer.store.segments[0].lengths.tolist() == [[6, 6], [6, 6]]


@torch.no_grad()
def test_pooling_keeps_neighbours():
    model, inputs = llama(1), batch()
    counts = []
    for pool in (1, 7):
        cache = prefilled(model, lm_kv.snapkv(window=1, pool=pool), inputs, budget=12)
        positions = cache.layers[0].store.segments[0].positions[-11:]
        counts.append(int((positions.diff() == 1).sum()))
    assert counts[1] > counts[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window must be"),
        ({"pool": 4}, "pool must be odd, got 4"),
        ({"pool": 0}, "pool must be"),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(DcacheError, match=message):
        lm_kv.snapkv(**options)
