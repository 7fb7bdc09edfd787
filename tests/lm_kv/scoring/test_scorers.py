import math

import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.model.attention import Logits
from dcache.lm_kv.scoring.observers import upper_triangle
from dcache.lm_kv.scoring.scorers import (
    Chance,
    Context,
    ExpectedAttention,
    KeyDistance,
    LastQueryAttention,
    ReceivedMean,
    ReceivedSum,
    Recency,
    Reconstruction,
    WindowAttention,
)
from dcache.lm_kv.storage.stored import Stored


def stored(
    keys: list[list[float]], valid: list[int] | None = None, score: list[float] | None = None
) -> Stored:
    """One row, one head; values are of length 1, 2, 3, ..."""
    count = len(keys)
    mask = torch.tensor(valid or [1] * count).bool().view(1, 1, count)
    positions = (mask.long().cumsum(-1) - 1).clamp_min(0)
    values = torch.arange(1.0, count + 1).view(1, 1, count, 1)
    running = None if score is None else torch.tensor(score).view(1, 1, count)
    return Stored(torch.tensor(keys).view(1, 1, count, -1), values, positions, mask, score=running)


def context(seen: int, state: dict | None = None, **more) -> Context:
    turn = torch.eye(2)
    return Context(0, state or {}, torch.tensor([seen]), Logits(1.0), lambda start, count: turn, **more)


def window(queries: list[list[float]], positions: list[int]) -> dict[str, torch.Tensor]:
    query = torch.tensor(queries).view(1, 1, len(queries), -1)
    valid = torch.ones(1, len(queries), dtype=torch.bool)
    return {"query": query, "position": torch.tensor([positions]), "valid": valid}


def test_recency_is_the_position():
    assert Recency().score(stored([[1.0]] * 3), context(3)).tolist() == [[[0, 1, 2]]]


def test_keys_unlike_the_others_score_high():
    tokens = stored([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [9.0, 9.0]], valid=[1, 1, 1, 0])
    score = KeyDistance().score(tokens, context(3))[0, 0, :3]
    # The mean of the directions is (2, 1) / 3, so cosines are 2 / sqrt(5) and 1 / sqrt(5).
    torch.testing.assert_close(score, -torch.tensor([2.0, 2.0, 1.0]) / 5**0.5)


def test_chance_depends_on_seed_layer_head_and_position_alone():
    tokens = Stored(
        torch.zeros(1, 2, 400, 1), torch.zeros(1, 2, 400, 1), torch.arange(400).expand(1, 2, -1),
        torch.ones(1, 2, 400, dtype=torch.bool),
    )  # fmt: skip
    first = Chance(0).score(tokens, context(400))
    later = Stored(tokens.keys[:, :, 7:], tokens.values, tokens.positions[:, :, 7:], tokens.valid[:, :, 7:])
    assert torch.equal(Chance(0).score(later, context(400)), first[:, :, 7:])
    assert not torch.equal(Chance(1).score(tokens, context(400)), first)
    assert not torch.equal(first[:, 0], first[:, 1])
    assert first.min() >= 0
    assert first.max() < 1
    # Mean of 800 uniform numbers: its standard deviation is .01.
    assert abs(float(first.mean()) - 0.5) < 0.05


def test_window_attention_is_causal_and_a_mean_over_the_window():
    tokens = stored([[0.0], [0.0], [0.0]])
    score = WindowAttention(1).score(tokens, context(3, window([[1.0], [1.0]], [1, 2])))
    # The query at 1 sees two tokens, that at 2 three: (1/2 + 1/3) / 2 twice, and 1/3 / 2.
    torch.testing.assert_close(score.flatten(), torch.tensor([5 / 12, 5 / 12, 1 / 6]))


def test_pooling_leaves_the_window_out_and_skips_empty_slots():
    tokens = stored([[0.0]] * 6, valid=[1, 0, 1, 1, 1, 0])
    score = WindowAttention(3).score(tokens, context(4, window([[1.0]], [3])))
    # Each of the four tokens has 1/4; the newest is the window's. Sums of neighbours, thirds of them.
    expected = torch.tensor([2 / 12, 3 / 12, 2 / 12, 1 / 12])
    torch.testing.assert_close(score[tokens.valid], expected)


def test_the_last_query_votes_for_all_heads():
    keys = torch.tensor([[[[1.0], [0.0]], [[0.0], [1.0]]]])
    tokens = Stored(keys, keys, torch.tensor([[[0, 1], [0, 1]]]), torch.ones(1, 2, 2, dtype=torch.bool))
    state = window([[1.0]], [1])
    state["query"] = state["query"].expand(1, 2, 1, 1)
    # Each head prefers another token, so that their mean is even.
    score = LastQueryAttention().score(tokens, context(2, state))
    torch.testing.assert_close(score, torch.full((1, 2, 2), 0.5))


def test_the_last_query_votes_by_token_where_heads_hold_other_ones():
    # The first head holds tokens 0 and 2, the second 1 and 2; a query of 1 gives keys 0 and log 3 a quarter
    # and three quarters. Token 2 has 3/4 of one head and 1/4 of the other.
    keys = torch.tensor([[[[0.0], [math.log(3)]], [[math.log(3)], [0.0]]]])
    tokens = Stored(keys, keys, torch.tensor([[[0, 2], [1, 2]]]), torch.ones(1, 2, 2, dtype=torch.bool))
    state = window([[1.0]], [2])
    state["query"] = state["query"].expand(1, 2, 1, 1)
    score = LastQueryAttention().score(tokens, context(3, state))
    torch.testing.assert_close(score, torch.tensor([[[0.25, 0.5], [0.75, 0.5]]]))


def test_received_sums_and_probes_are_read_as_they_are():
    assert ReceivedSum().score(stored([[0.0]] * 2, score=[3.0, 4.0]), context(2)).tolist() == [[[3, 4]]]
    received = torch.tensor([[[0.5, 0.1]]])
    assert Reconstruction().score(stored([[0.0]] * 2), context(2, received=received)) is received
    assert Reconstruction.probes


@pytest.mark.parametrize("scorer", [ReceivedSum(), Reconstruction()])
def test_what_was_not_gathered_cannot_be_read(scorer):
    with pytest.raises(DcacheError, match=r"observer ColumnSums|what a probe received"):
        scorer.score(stored([[0.0]]), context(1))


def test_expected_attention_in_closed_form():
    # Two queries, (1, 0) and (1, 2): mean (1, 1), covariance diag(0, 1).
    queries = torch.tensor([[1.0, 0.0], [1.0, 2.0]]).double()
    state = {
        "count": torch.tensor([2.0]).double(),
        "sum": queries.sum(0).view(1, 1, 2),
        "products": upper_triangle(queries.T @ queries).view(1, 1, 3),
    }
    tokens = stored([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    logits = torch.tensor([1.0, 1.0 + 0.5, 0.0])
    expected = logits.softmax(0) * torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(ExpectedAttention(1).score(tokens, context(3, state)).flatten(), expected)


def test_the_mean_is_over_the_queries_that_see_a_token():
    score = ReceivedMean().score(stored([[1.0]] * 3, score=[3.0, 1.0, 0.5]), context(3))
    assert score.tolist() == [[[1.0, 0.5, 0.5]]]
