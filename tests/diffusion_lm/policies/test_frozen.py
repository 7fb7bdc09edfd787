"""The rows of `frozen`, by hand."""

from dcache.methods import frozen
from tests.diffusion_lm.steps import listed, step


def test_the_finished_block_once_more_and_then_the_current_one():
    policy = frozen().policy
    assert policy.refresh(step(in_block=0)) is None
    assert listed(policy.rows(step(in_block=0, start=8, end=12, previous=4))) == [list(range(4, 12))] * 2
    assert listed(policy.rows(step(start=8, end=12))) == [[8, 9, 10, 11]] * 2


def test_rows_are_widened_to_blocks_of_the_models_mask():
    policy = frozen().policy
    assert listed(policy.rows(step(start=5, end=7, model_block=4))) == [[4, 5, 6, 7]] * 2
    assert listed(policy.rows(step(in_block=0, start=5, end=9, previous=3, model_block=4)))[0] == list(
        range(12)
    )
