import torch

from dcache.lm_kv.scoring.questions import ActivationBias, MeanQuery

VALID = torch.tensor([[False, True, True, True]])


def asked(question, *channels):
    query = torch.tensor(channels).T.view(1, 1, 4, -1)
    return question.of(query, VALID).flatten().tolist()


def test_a_mean_leaves_pads_out():
    assert asked(MeanQuery(), [9.0, 0.0, 0.0, 3.0], [9.0, 1.0, 2.0, 6.0]) == [1, 3]


def test_unusual_queries_weigh_more():
    # Of 0, 0 and 3 the mean is 1 and the variance 2: biases 1/2, 1/2 and 2.
    assert asked(ActivationBias(), [9.0, 0.0, 0.0, 3.0]) == [2]
    # A second channel, in which 3, 0 and 0 are as unusual: biases 5/4, 1/2 and 5/4.
    assert asked(ActivationBias(), [9.0, 0.0, 0.0, 3.0], [9.0, 3.0, 0.0, 0.0]) == [1.25, 1.25]


def test_like_queries_weigh_the_same():
    assert asked(ActivationBias(), [9.0, 2.0, 2.0, 2.0]) == [2]
    single = torch.randn(1, 2, 1, 4)
    assert torch.equal(ActivationBias().of(single, torch.ones(1, 1, dtype=torch.bool)), single)


def test_a_row_of_pads_alone_asks_for_nothing():
    query, valid = torch.ones(1, 1, 2, 3), torch.zeros(1, 2, dtype=torch.bool)
    assert (
        ActivationBias().of(query, valid).tolist() == MeanQuery().of(query, valid).tolist() == [[[[0, 0, 0]]]]
    )
