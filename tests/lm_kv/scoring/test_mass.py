import torch

from dcache.lm_kv.scoring.mass import MassBefore
from tests.lm_kv.scoring.test_scorers import context, stored


def test_the_score_is_the_attention_of_more_attended_tokens():
    tokens = stored([[1.0]] * 5, valid=[1, 1, 1, 1, 0], score=[2.0, 5.0, 1.0, 2.0, 9.0])
    score = MassBefore().score(tokens, context(4))
    # In descending order 5, 2, 2, 1 of 10: before them lie 0, 5, 7, 9; of equal ones the oldest comes first.
    torch.testing.assert_close(score[0, 0, :4], -torch.tensor([0.5, 0.0, 0.9, 0.7]))
