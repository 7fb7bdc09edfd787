import pytest

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import batch, llama, prefilled


def test_layers_keep_other_tokens_of_old_text_and_the_newest_alike():
    cache = prefilled(llama(2), lm_kv.lacache(sinks=2, window=4), batch(pads=0), budget=22)
    kept = [layer.store.segments[0].positions[:18].tolist() for layer in cache.layers]
    # 40 tokens: 2 sinks, 34 in 17 rungs of two, 4 newest; 18 of the 34 go: one of each rung, then one of the
    # oldest two that are left.
    assert kept[0] == [0, 1, 2, *range(6, 36, 2)]
    assert kept[1] == [0, 1, *range(5, 36, 2)]
    assert len(set(kept[0]) & set(kept[1])) == 2
    assert cache.layers[0].store.tail.positions[0].tolist() == [36, 37, 38, 39]


def test_it_needs_no_rotation_where_positions_stay():
    assert lm_kv.lacache().needs_rotary
    assert not lm_kv.lacache(shift=False).needs_rotary


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"span": 0}, "span must be"),
        ({"overlap": -1}, "overlap must be"),
        ({"span": 4, "overlap": 4}, "overlap must be below span=4, got 4"),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(DcacheError, match=message):
        lm_kv.lacache(**options)
