import torch

from dcache.lm_kv.scoring.mass import MassBefore
from tests.lm_kv.scoring.test_scorers import context, stored


def test_the_score_is_the_attention_of_more_attended_tokens():
    tokens = stored([[1.0]] * 5, valid=[1, 1, 1, 1, 0], score=[2.0, 5.0, 1.0, 2.0, 9.0])
    score = MassBefore().score(tokens, context(4))
    # In descending order 5, 2, 2, 1 of 10: before them lie 0, 5, 7, 9; of equal ones the oldest comes first.
    torch.testing.assert_close(score[0, 0, :4].float(), -torch.tensor([0.5, 0.0, 0.9, 0.7]))


def test_tokens_with_little_attention_keep_their_order_in_long_texts():
    # The first token has nearly all that 100000 queries gave; each later one has a little less than the one
    # before it.
    received = [1e5, *(1e-3 - 1e-6 * i for i in range(900))]
    score = MassBefore().score(stored([[1.0]] * 901, score=received), context(901))[0, 0]
    assert (score.diff() < 0).all()
