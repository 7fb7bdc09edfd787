import pytest
import torch

from dcache.lm_kv.scoring.coverage import AttentionShare, ReceivedMeanOfTheLayer
from dcache.lm_kv.storage.stored import Stored
from tests.lm_kv.scoring.test_scorers import context, stored


@pytest.mark.parametrize(("share", "tokens"), [(0.4, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (1.0, 4)])
def test_the_fewest_tokens_that_reach_the_share(share, tokens):
    # Ten in all: five, three, two and nothing.
    received = stored([[1.0]] * 5, score=[3.0, 5.0, 0.0, 2.0, 9.0], valid=[1, 1, 1, 1, 0])
    assert AttentionShare(share).of(received, context(4)).tolist() == [tokens]


def test_heads_count_together_where_they_hold_other_tokens():
    # Token 0 has 1 + 4 of both heads, token 1 three of the first, token 2 two of the second.
    keys = torch.ones(1, 2, 2, 1)
    held = Stored(
        keys,
        keys,
        torch.tensor([[[0, 1], [0, 2]]]),
        torch.ones(1, 2, 2, dtype=torch.bool),
        score=torch.tensor([[[1.0, 3.0], [4.0, 2.0]]]),
    )
    assert [int(AttentionShare(share).of(held, context(3))) for share in (0.5, 0.51, 0.8, 0.9)] == [
        1,
        2,
        2,
        3,
    ]
    # Token 0 was seen by three queries, token 1 by two, token 2 by one.
    score = ReceivedMeanOfTheLayer().score(held, context(3))
    torch.testing.assert_close(score, torch.tensor([[[5 / 6, 1.5], [5 / 6, 2.0]]]))
