"""The rows of `window`, by hand."""

from dcache.methods import window
from tests.diffusion_lm.steps import listed, step


def test_the_leftmost_masked_rows_of_the_block():
    policy = window(window=1).policy
    assert listed(policy.rows(step())) == [[5], [4]]
    assert listed(window(window=9).policy.rows(step())) == [[5], [4, 6]]
    assert policy.needs == "a decode window"
