"""The rows of `elastic`, by hand."""

from dcache.methods import elastic
from tests.diffusion_lm.steps import columns, listed, step


def test_the_window_and_the_tracked_tokens():
    policy = elastic(window=1).policy
    assert listed(policy.rows(step(tracked=columns([2], [0, 1])))) == [[2, 5], [0, 1, 4]]
    assert policy.refresh(step()) is None


def test_the_ends_of_gamma_test_nothing():
    assert elastic(gamma=-1).policy.observer(3) is None
    assert elastic(gamma=1.1).policy.observer(3) is None
    assert elastic(gamma=1.1).policy.refresh(step()) == "every"
    assert elastic(gamma=0.5).policy.observer(3).gamma == 0.5
