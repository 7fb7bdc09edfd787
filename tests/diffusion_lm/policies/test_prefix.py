"""The rows of `prefix`, by hand."""

from dcache.methods import prefix
from tests.diffusion_lm.steps import listed, step


def test_rows_from_the_block_on_and_all_when_it_begins():
    policy = prefix().policy
    assert policy.refresh(step(in_block=0)) == "block"
    assert policy.refresh(step()) is None
    assert listed(policy.rows(step())) == [list(range(4, 12))] * 2
