"""The rows of `none`, by hand."""

from dcache.methods import none
from tests.diffusion_lm.steps import step


def test_every_row_at_every_step():
    policy = none(window=3).policy
    assert policy.refresh(step()) == "every"
    assert bool(policy.rows(step()).all())
    assert policy.window == 3
