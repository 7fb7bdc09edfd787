import math

import pytest
import torch

from dcache.lm_kv.codecs.codec import Plain
from dcache.lm_kv.storage.merging import MergeRuns
from dcache.lm_kv.storage.reducers import drop
from dcache.lm_kv.storage.stored import Stored


def stored(keys, values, valid=None, score=None):
    count = keys.shape[0]
    mask = torch.ones(count, dtype=torch.bool) if valid is None else torch.tensor(valid).bool()
    running = None if score is None else torch.tensor(score).view(1, 1, count)
    positions = torch.arange(count).view(1, 1, count)
    return Stored(keys[None, None], values[None, None], positions, mask.view(1, 1, count), score=running)


def test_equal_neighbours_merged_are_attended_to_as_before():
    keys = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 2.0], [9.0, 9.0], [0.0, 2.0], [3.0, 0.0]])
    values = torch.arange(12.0).view(6, 2)
    # The fourth slot is unused, so that three equal keys are neighbours; the second has the highest sum.
    tokens = stored(keys, values, [1, 1, 1, 0, 1, 1], [1.0, 5.0, 2.0, 9.0, 3.0, 1.0])
    keep = torch.tensor([1, 1, 0, 0, 0, 1]).bool().view(1, 1, 6)
    segment = MergeRuns(0.9)(tokens, keep, Plain())
    assert segment.positions.tolist() == [0, 1, 5]
    assert segment.bias.tolist() == pytest.approx([0, math.log(3), 0])
    query, true = torch.tensor([0.3, 0.8]), tokens.valid[0, 0]
    full = (keys[true] @ query).softmax(0) @ values[true]
    torch.testing.assert_close((segment.keys @ query + segment.bias).softmax(0) @ segment.values, full)


def test_a_walk_over_the_runs_gives_the_same():
    generator = torch.Generator().manual_seed(1)
    keys, values = (torch.randn(30, 3, generator=generator) for _ in range(2))
    score = torch.rand(30, generator=generator).tolist()
    keep = torch.rand(30, generator=generator) < 0.4
    segment = MergeRuns(0.0)(stored(keys, values, None, score), keep.view(1, 1, 30), Plain())
    runs = [[0]]
    for token in range(1, 30):
        alike = torch.cosine_similarity(keys[token], keys[token - 1], dim=0) > 0
        runs[-1].append(token) if alike else runs.append([token])
    new_keys, bias = keys.clone(), torch.zeros(30)
    for run in runs:
        kept, lost = [t for t in run if keep[t]], [t for t in run if not keep[t]]
        if not kept or not lost:
            continue
        pivot = max(kept, key=lambda t: score[t])
        distances = torch.stack([(keys[t] - keys[pivot]).norm() for t in lost])
        weights = torch.cat([torch.exp(-((distances / distances.mean()) ** 2)), torch.ones(1)])
        new_keys[pivot] = (weights / weights.sum()) @ keys[[*lost, pivot]]
        bias[pivot] = math.log(len(lost) + 1)
    assert (bias > 0).sum() >= 3
    torch.testing.assert_close(segment.keys, new_keys[keep])
    torch.testing.assert_close(segment.bias, bias[keep])


def test_nothing_is_merged_where_no_keys_are_alike():
    keys, values = torch.eye(4), torch.randn(4, 2)
    keep = torch.tensor([1, 0, 1, 0]).bool().view(1, 1, 4)
    segment, dropped = (reduce(stored(keys, values), keep, Plain()) for reduce in (MergeRuns(0.5), drop))
    assert torch.equal(segment.keys, dropped.keys)
    assert torch.equal(segment.values, dropped.values)
    assert segment.bias is None
