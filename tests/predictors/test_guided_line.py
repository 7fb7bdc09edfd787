"""The guided line: the mean along the line, the difference along a share of it; in closed form."""

import pytest
import torch

import dcache
from dcache.errors import DcacheError
from dcache.kernels.weighted_sum import weighted_sum
from dcache.predictors import GuidedLine, Newton, make
from dcache.predictors.guided_pair import paired_sum


def test_the_mean_follows_the_line_and_the_difference_a_quarter_of_it() -> None:
    line = GuidedLine()
    # From 2.0 at clock 1 to 3.0 at clock 3, at clock 7: 3 + 1 / 2 * 4 = 5, and a quarter of it 3.5.
    assert line.weights([1.0, 3.0], [0, 1], 7.0) == pytest.approx([-2.0, 3.0])
    assert line.difference_weights([1.0, 3.0], [0, 1], 7.0) == pytest.approx([-0.5, 1.5])
    assert line.weights([3.0], [1], 7.0) == line.difference_weights([3.0], [1], 7.0) == [1.0]


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.0), (0.25, 0.5), (1.0, 2.0)])
def test_halves_that_move_along_a_line_come_out_as_the_formula_has_it(share: float, expected: float) -> None:
    u = [torch.full((2, 3), float(t)) for t in range(2)]
    c = [torch.full((2, 3), 3.0 * t) for t in range(2)]
    anchors = [torch.cat(halves) for halves in zip(u, c, strict=True)]
    line = GuidedLine(share)
    summed = paired_sum(line, [0.0, 1.0], [0, 1], 2.0)
    assert summed is not None
    low, high = summed(None, anchors, line.weights([0.0, 1.0], [0, 1], 2.0), torch.float32).chunk(2)
    # The mean, 2 t, goes on to 4; the difference, 2 t, from 2 by a share of 2.
    torch.testing.assert_close((low + high) / 2, torch.full((2, 3), 4.0))
    torch.testing.assert_close(high - low, torch.full((2, 3), 2.0 + expected))


def test_with_a_share_of_one_it_is_newtons_line() -> None:
    anchors = [torch.randn(4, 3), torch.randn(4, 3)]
    taus, steps = [0.3, 1.1], [0, 1]
    weights = Newton(1).weights(taus, steps, 2.0)
    assert GuidedLine(1.0).difference_weights(taus, steps, 2.0) == pytest.approx(weights)
    summed = paired_sum(GuidedLine(1.0), taus, steps, 2.0)
    assert summed is not None
    torch.testing.assert_close(
        summed(None, anchors, weights, torch.float32), weighted_sum(None, anchors, weights, torch.float32)
    )


def test_it_is_loaded_by_name_and_refuses_what_is_no_share() -> None:
    assert make("guided_line", {"difference": 0.5}) == GuidedLine(0.5)
    with pytest.raises(DcacheError, match="difference must be a number of at least 0"):
        dcache.methods.adaptive(difference=-0.5)
