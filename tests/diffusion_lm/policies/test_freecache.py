"""The rows of `freecache`, by hand."""

from dcache.methods import freecache
from tests.diffusion_lm.steps import listed, step


def test_rows_from_the_block_on_and_never_all():
    policy = freecache().policy
    assert policy.refresh(step(in_block=0)) is None
    assert listed(policy.rows(step(start=8, end=12))) == [[8, 9, 10, 11]] * 2
