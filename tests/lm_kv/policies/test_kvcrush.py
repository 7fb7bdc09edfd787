import pytest

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import batch, llama, prefilled


def runs(policy: lm_kv.Policy, budget: int) -> list[set[int]]:
    cache = prefilled(llama(1), policy, batch(pads=0), budget=budget)
    segment = cache.layers[0].store.segments[0]
    return [set(run.tolist()) for run in segment.positions.split(segment.sizes)]


def test_heads_keep_the_same_tokens_the_most_attended_among_them():
    crushed = runs(lm_kv.kvcrush(window=4, share=0.5), 14)
    important = runs(lm_kv.kvcrush(window=4, share=1.0), 9)
    assert crushed[0] == crushed[1]
    assert all(len(run) == 10 for run in crushed)
    # Five of ten beside the window are those that a budget of five would keep.
    assert all(few < more for few, more in zip(important, crushed, strict=True))


def test_the_anchor_decides_who_stands_for_the_others():
    assert (
        len({frozenset(runs(lm_kv.kvcrush(window=4, anchor=anchor), 14)[0]) for anchor in ("ones", "zeros")})
        == 2
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window must be"),
        ({"share": 1.5}, "share must be a number from 0 to 1"),
        ({"anchor": "random"}, "anchor must be one of alternating, mean, ones, zeros"),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(DcacheError, match=message):
        lm_kv.kvcrush(**options)
