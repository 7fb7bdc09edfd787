import pytest
import torch

from dcache.lm_kv.codecs.low_rank import LowRank, join, low_rank

LENGTHS = torch.tensor([7, 0, 5])


def rebuilt(part):
    return part.add_to(torch.zeros(len(part.left), part.right.shape[2]))


def test_tokens_of_so_few_directions_come_back():
    torch.manual_seed(0)
    # Groups of four tokens of a run: 4, 3; 4, 1. Each in a plane of its own.
    tokens = torch.cat([torch.randn(n, 2) @ torch.randn(2, 8) for n in (4, 3, 4, 1)])
    part = low_rank(tokens, 2, 4, LENGTHS)
    assert part.left.shape == (12, 2)
    assert part.right.shape == (4, 2, 8)
    torch.testing.assert_close(rebuilt(part), tokens, atol=1e-2, rtol=0)


@pytest.mark.parametrize("rank", [8, 99])
def test_all_directions_are_exact_but_for_float16(rank):
    tokens = torch.randn(12, 8)
    torch.testing.assert_close(rebuilt(low_rank(tokens, rank, 4, LENGTHS)), tokens, atol=1e-2, rtol=0)


def test_what_is_missed_is_near_the_least_that_rank_can_miss():
    torch.manual_seed(0)
    tokens = torch.randn(64, 16) * torch.linspace(0.2, 2.0, 16)
    off = (rebuilt(low_rank(tokens, 4, 64, torch.tensor([64]))) - tokens).square().sum()
    least = torch.linalg.svdvals(tokens)[4:].square().sum()
    assert 0.999 * least < off < 1.1 * least


def test_no_direction_is_nothing():
    assert rebuilt(low_rank(torch.randn(12, 8), 0, 4, LENGTHS)).abs().max() == 0


def test_taken_and_joined_tokens_keep_their_products():
    torch.manual_seed(0)
    part = low_rank(torch.randn(12, 8), 2, 4, LENGTHS)
    whole = rebuilt(part)
    rows = torch.tensor([0, 2, 6, 7, 11])
    taken = part.take(rows, torch.tensor([3, 0, 2]))
    assert torch.equal(rebuilt(taken), whole[rows])
    # Three tokens of two groups lie in one place now: each says which it is of.
    assert taken.index is not None
    again = part.take(torch.arange(12), LENGTHS)
    assert again.index is None
    order = torch.tensor([0, 1, 2, 5, 6, 7, 8, 9, 3, 4])
    both = join([taken, taken], order, torch.tensor([6, 0, 4]))
    assert torch.equal(rebuilt(both), torch.cat([whole[rows]] * 2)[order])


def test_directions_of_a_calibration_are_not_repeated():
    part = LowRank(
        torch.ones(2, 1).half(),
        torch.randn(3, 1, 4).half(),
        torch.tensor([2]),
        9,
        torch.tensor([2, 0]).int(),
        True,
    )
    both = join(
        [part.take(torch.tensor([1, 0]), torch.tensor([2])), part],
        torch.tensor([0, 2, 1, 3]),
        torch.tensor([4]),
    )
    assert both.right is part.right
    assert torch.equal(rebuilt(both), part.right[[0, 2, 2, 0], 0].float())
