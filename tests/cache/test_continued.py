"""What of an input an output continues: the channels and tokens that both have."""

import pytest
import torch

from dcache.cache.continued import continued, continues, cut


@pytest.mark.parametrize(
    ("shape", "entry"),
    [
        ((2, 4, 8, 8), (2, 4, 8, 8)),
        # A mask and the masked picture; a learned variance; conditions of a video; channels last.
        ((2, 4, 8, 8), (2, 9, 8, 8)),
        ((2, 8, 8, 8), (2, 4, 8, 8)),
        ((1, 16, 5, 8, 8), (1, 36, 5, 8, 8)),
        ((1, 5, 8, 8, 4), (1, 5, 8, 8, 9)),
        # Reference tokens, channels of a control, and both.
        ((1, 16, 64), (1, 32, 64)),
        ((1, 16, 64), (1, 16, 128)),
        ((1, 16, 64), (1, 32, 128)),
        ((2, 3), (2, 4)),
        ((3,), (3,)),
    ],
)
def test_an_output_continues_an_input_of_its_rows_and_dimensions(shape, entry):
    assert continues(shape, entry)
    assert cut(torch.zeros(entry), torch.Size(shape)).shape == tuple(map(min, shape, entry))
    assert continued(torch.zeros(entry), torch.Size(shape)).shape == shape


@pytest.mark.parametrize(
    ("shape", "entry"),
    [
        # Other rows, other dimensions, another resolution, another length.
        ((4, 4, 8, 8), (2, 4, 8, 8)),
        ((2, 12, 64), (2, 64)),
        ((1, 4, 8, 8), (1, 3, 16, 16)),
        ((1, 4, 8, 8), (1, 16, 4, 4)),
        ((3,), (5,)),
    ],
)
def test_and_no_other(shape, entry):
    assert not continues(shape, entry)
    x = torch.zeros(entry)
    assert cut(x, torch.zeros(shape)) is x


def test_what_is_continued_is_the_first_part_and_what_is_missing_is_zero():
    x = torch.arange(12.0).view(1, 3, 2, 2)
    assert cut(x, torch.zeros(1, 2, 2, 2)).flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert cut(x, None) is x
    assert cut(x, torch.zeros(1, 4, 2, 2)) is x
    assert continued(x, x.shape) is x
    wider = continued(x, torch.Size((1, 4, 2, 2)))
    assert wider.flatten().tolist() == [*range(12), 0, 0, 0, 0]
    tokens = torch.arange(12.0).view(1, 3, 4)
    # Two of the tokens, of six channels four were there.
    assert continued(tokens, torch.Size((1, 2, 6))).tolist() == [[[0, 1, 2, 3, 0, 0], [4, 5, 6, 7, 0, 0]]]
