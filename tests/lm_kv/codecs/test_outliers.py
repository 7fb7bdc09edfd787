import torch

from dcache.lm_kv.codecs.outliers import clip, join, outliers_of


def test_the_largest_and_smallest_move_to_the_nearest_of_the_others():
    vectors = torch.tensor([[5.0, -9.0, 1.0, 2.0], [1.0, 1.0, 7.0, 99.0], [3.0, 4.0, 99.0, 99.0]])
    near, mask = clip(vectors, torch.tensor([4, 3, 2]), 1)
    # Two numbers have no third one to move to.
    assert mask.tolist() == [[True, True, False, False], [True, False, True, False], [False] * 4]
    assert near.tolist() == [[2, 1, 1, 2], [1, 1, 1, 99], [3, 4, 99, 99]]


def test_numbers_are_put_back_where_they_were():
    tokens = torch.arange(12.0).view(4, 3)
    mask = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]]).bool()
    part = outliers_of(tokens, mask)
    assert part.counts.tolist() == [2, 0, 1, 3]
    assert part.columns.dtype == torch.uint8
    assert torch.equal(part.put(torch.full((4, 3), -1.0)), tokens.masked_fill(~mask, -1.0))
    rows = torch.tensor([3, 0, 3, 1])
    assert torch.equal(part.take(rows).put(torch.full((4, 3), -1.0)), tokens.masked_fill(~mask, -1.0)[rows])
    both = join([part, part.take(rows)]).put(torch.full((8, 3), -1.0))
    assert torch.equal(both, tokens.masked_fill(~mask, -1.0)[[0, 1, 2, 3, 3, 0, 3, 1]])


def test_channels_beyond_a_byte_have_two():
    assert outliers_of(torch.ones(1, 256), torch.ones(1, 256, dtype=torch.bool)).columns[-1] == 255
    assert outliers_of(torch.ones(1, 256), torch.ones(1, 256, dtype=torch.bool)).counts.tolist() == [256]
