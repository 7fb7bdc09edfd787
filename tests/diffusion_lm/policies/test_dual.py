"""The rows of `dual`, by hand."""

from dcache.methods import dual
from tests.diffusion_lm.steps import listed, step


def test_rows_of_the_block_and_all_when_it_begins():
    policy = dual().policy
    assert policy.refresh(step(in_block=0)) == "block"
    assert policy.refresh(step()) is None
    assert listed(policy.rows(step())) == [[4, 5, 6, 7]] * 2
