from contextlib import nullcontext

import pytest
import torch

from dcache import DcacheError, DcacheWarning, lm_kv
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


@torch.no_grad()
@pytest.mark.parametrize("window", [4, 20])
def test_kept_tokens_are_those_of_the_rule(window):
    # Of a budget of 14 a window of 20 takes 7, and 4 all of its 4; what is left goes half to each part.
    model, row = llama(1, attention="eager").double(), batch()["input_ids"][1:]
    weights = model(row, output_attentions=True, use_cache=False).attentions[0][0]
    with pytest.warns(DcacheWarning, match="shrink to 0 and 7") if window == 20 else nullcontext():
        cache = prefilled(llama(1).double(), lm_kv.kvcrush(window=window), batch(), budget=14)
    protected = min(window, 7)
    room, older = 14 - protected, 40 - window
    voted = weights[:, -window:, :older].mean(1)
    best = (room // 2, room - room // 2)
    important = voted.mean(0).topk(best[0]).indices.tolist()
    signatures = [[i in head.topk(best[0]).indices.tolist() for head in voted] for i in range(older)]
    distance = [sum(bit != (h % 2 == 1) for h, bit in enumerate(signature)) for signature in signatures]
    others = sorted((i for i in range(older) if i not in important), key=lambda i: (distance[i], i))
    count = len(others)
    taken = [i for rank, i in enumerate(others) if (rank + 1) * best[1] // count > rank * best[1] // count]
    expected = sorted([*important, *taken])
    assert len(expected) == room
    store = cache.layers[0].store
    assert store.tail.positions[1, -protected:].tolist() == [*range(40 - protected, 40)]
    for positions in store.segments[0].positions.split(store.segments[0].sizes)[2:]:
        assert [p for p in positions.tolist() if p < 40 - protected] == expected


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
