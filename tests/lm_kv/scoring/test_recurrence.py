import math
from dataclasses import replace

import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.model.attention import Logits
from dcache.lm_kv.scoring.recurrence import NextUse, Recurrence
from tests.lm_kv.scoring.test_scorers import context, stored, window

OBSERVER = Recurrence(window=8, threshold=0.4)


def settled(tokens, queries, positions):
    return replace(tokens, score=OBSERVER.settle(window(queries, positions), tokens, Logits(1.0)))


def test_uses_and_pauses_are_those_of_a_walk_over_the_queries():
    # Queries of 9 use tokens of key 1, queries of -9 those of key 0; each sees what is before it.
    tokens = stored([[1.0], [0.0], [0.0], [0.0], [0.0], [0.0], [0.0]])
    tokens = replace(tokens, score=torch.zeros(1, 1, 7, 2))
    first = settled(tokens, [[9.0], [9.0], [9.0]], [2, 3, 6])
    # The first token is used at 2, 3 and 6; the others are not used.
    assert first.score[0, 0].tolist() == [[6, 3], [1, 0], [2, 0], [3, 0], [4, 0], [5, 0], [6, 0]]
    # The same queries again change nothing.
    again = settled(first, [[9.0], [9.0], [9.0]], [2, 3, 6])
    assert torch.equal(again.score, first.score)
    later = settled(first, [[9.0]], [11])
    assert later.score[0, 0, 0].tolist() == [11, 5]


def test_the_score_is_the_published_one():
    score = torch.tensor([[[[6.0, 3.0], [1.0, 0.0], [9.0, 5.0]]]])
    tokens = replace(stored([[0.0]] * 3), score=score)
    score = NextUse().score(tokens, context(10))
    expected = [
        2 / (1 + math.exp(3 / 3)) + 2 / (1 + math.exp(1 / 3)),
        0.0,
        2 / (1 + math.exp(0)) + 2 / (1 + math.exp(1 / 5)),
    ]
    torch.testing.assert_close(score.flatten(), torch.tensor(expected))


def test_statistics_of_another_kind_are_refused():
    with pytest.raises(DcacheError, match="observer Recurrence"):
        NextUse().score(stored([[0.0]], score=[1.0]), context(1))
