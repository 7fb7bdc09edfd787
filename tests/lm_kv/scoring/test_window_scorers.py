import math

import pytest
import torch

from dcache.lm_kv.scoring.window_scorers import BLOCK, MeanAndVariance, Pivotal, query_blocks, window_moments
from tests.lm_kv.scoring.test_scorers import context, stored, window


def test_ignored_tokens_are_counted_and_ties_go_by_the_mean():
    # A query of 1 on keys 0 and log 3: weights 1/4 and 3/4. The query at 0 sees the first token alone.
    tokens = stored([[0.0], [float(torch.tensor(3.0).log())]])
    score = Pivotal().score(tokens, context(2, window([[1.0], [1.0]], [0, 1])))
    # The first token was ignored once; mean attentions are (1 + 1/4) / 3 and (3/4) / 3 with one query more.
    torch.testing.assert_close(score.flatten().float(), torch.tensor([1.25 / 3 - 1, 0.75 / 3]))


def test_ties_go_by_the_mean_where_most_queries_ignore_a_token():
    # 2000 queries give nearly all to the last token, and the second token twice as much as the first.
    tokens = stored([[0.0], [math.log(2)], [12.0]])
    state = window([[1.0]] * 2000, [2] * 2000)
    first, second, third = Pivotal().score(tokens, context(3, state)).flatten().tolist()
    given = 1 / (3 + math.exp(12))
    assert (first, second) == pytest.approx(
        (2000 / 2001 * given - 2000, 2000 / 2001 * 2 * given - 2000), abs=1e-9
    )
    assert first < second < third


def test_blocks_of_queries_are_all_queries():
    queries = BLOCK + 3
    tokens = stored(torch.randn(queries, 2).tolist())
    state = window(torch.randn(queries, 2).tolist(), list(range(queries)))
    blocks = [block["query"] for block in query_blocks(state)]
    assert [block.shape[2] for block in blocks] == [BLOCK, 3]
    assert torch.equal(torch.cat(blocks, 2), state["query"])
    # What is added to the counts is at least 0 and below 1.
    counts = [Pivotal().score(tokens, context(queries, block)).floor() for block in query_blocks(state, 1)]
    assert torch.equal(Pivotal().score(tokens, context(queries, state)).floor(), sum(counts))


def test_mean_and_variance_count_true_queries_alone():
    tokens = stored([[0.0], [0.0], [0.0]])
    state = window([[9.0], [1.0], [1.0]], [0, 1, 2])
    state["valid"][0, 0] = False
    mean, variance = window_moments(tokens, context(3, state))
    # The queries at 1 and 2 give 1/2, 1/2, 0 and 1/3 each.
    torch.testing.assert_close(mean.flatten(), torch.tensor([5 / 12, 5 / 12, 1 / 6]))
    torch.testing.assert_close(variance.flatten(), torch.tensor([1 / 72, 1 / 72, 1 / 18]))
    score = MeanAndVariance(gamma=2.0).score(tokens, context(3, state))
    torch.testing.assert_close(score, (mean + 2 * variance)[:, :, 0])
