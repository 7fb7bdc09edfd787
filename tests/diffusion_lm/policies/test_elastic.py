"""The rows of `elastic`, by hand."""

from torch import nn

from dcache.methods import elastic
from tests.diffusion_lm.steps import columns, listed, step


def test_the_window_and_the_tracked_tokens():
    policy = elastic(window=1).policy
    assert listed(policy.rows(step(tracked=columns([2], [0, 1])))) == [[2, 5], [0, 1, 4]]
    assert policy.refresh(step()) is None


def test_the_ends_of_gamma_test_nothing():
    model = nn.ModuleList([nn.Linear(1, 1)])
    assert elastic(gamma=-1).policy.drift(model) is None
    assert elastic(gamma=1.1).policy.drift(model) is None
    assert elastic(gamma=1.1).policy.refresh(step()) == "every"
    assert elastic(gamma=0.5).policy.drift(nn.Sequential(model)).gamma == 0.5
