"""Confidence and attention rollout, by hand."""

import pytest
import torch

from dcache.diffusion_lm.masks import Masks
from dcache.diffusion_lm.passes import Pass
from dcache.diffusion_lm.rollout import Rollout
from dcache.diffusion_lm.selection import Selection
from dcache.diffusion_lm.step import Plan, Step
from dcache.diffusion_lm.store import KVStore

MASK = 3


def plan(rows, ids, active=True, shift=False):
    masked = ids == MASK
    step = Step(1, 1, ids, masked, masked & False, masked, 0, 3, 0, torch.tensor([1]))
    real = torch.ones_like(masked)
    return Plan(step, rows, rows, real, torch.tensor([active]), shift)


def attend(observer, selection, weights):
    """One attention call of probabilities `weights`: keys are unit vectors, queries their logarithms."""
    query = torch.tensor(weights).log()[None, None]
    forward = Pass(selection, KVStore(), Masks(), observer)
    observer.attended(forward, query, torch.eye(3)[None, None], None, 1.0)


def test_influence_is_the_product_of_attention_and_identity():
    """A full layer, and one of which row 1 alone is computed: the other rows of that are the identity."""
    observer, ids = Rollout(), torch.tensor([[0, 1, 2]])
    every, some = torch.ones(1, 3, dtype=torch.bool), torch.tensor([[False, True, False]])
    first, second = [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.125, 0.125, 0.75]], [[0.5, 0.25, 0.25]]
    observer.begin(plan(every, ids))
    attend(observer, Selection(every), first)
    attend(observer, Selection(some), second)
    observer.finish(torch.zeros(1, 1, 4), Selection(some))
    a = (torch.tensor(first) + torch.eye(3)) / 2
    b = torch.eye(3)
    b[1] = (torch.tensor(second[0]) + b[1]) / 2
    assert torch.allclose(observer.notes(ids)["influence"][0], (b @ a).sum(0))
    # A sequence that waits keeps what it had.
    before = observer.notes(ids)["influence"].clone()
    observer.begin(plan(some, ids, active=False))
    attend(observer, Selection(some), [[0.9, 0.05, 0.05]])
    observer.finish(torch.zeros(1, 1, 4), Selection(some))
    assert torch.equal(observer.notes(ids)["influence"], before)


@pytest.mark.parametrize("shift", [False, True])
def test_confidence_is_of_masked_positions_without_the_mask_token(shift):
    """Rows 0 and 1 are computed; with the shift they predict positions 1 and 2."""
    observer, ids = Rollout(), torch.tensor([[1, MASK, MASK]])
    rows = torch.tensor([[True, True, False]])
    observer.begin(plan(rows, ids, shift=shift))
    attend(observer, Selection(rows), [[0.5, 0.25, 0.25]] * 2)
    # Probabilities of tokens 0, 1, 2 where the mask token is left out: 1/2, 1/4, 1/4 and 3/4, 1/8, 1/8.
    logits = torch.tensor([[[0.4, 0.2, 0.2, 0.2], [0.6, 0.1, 0.1, 0.2]]]).log()
    observer.finish(logits, Selection(rows))
    wanted = [[0, 0.5, 0.75]] if shift else [[0, 0.75, 0]]
    assert torch.allclose(observer.notes(ids)["confidence"], torch.tensor(wanted))
    # Rows that are not computed keep theirs, also when the sequence grows.
    observer.grow(4)
    ids, rows = torch.tensor([[1, MASK, MASK, MASK]]), torch.tensor([[False, False, False, True]])
    observer.begin(plan(rows, ids))
    observer.finish(torch.tensor([[[0.2, 0.2, 0.4, 0.2]]]).log(), Selection(rows))
    assert torch.allclose(observer.notes(ids)["confidence"], torch.tensor([[*wanted[0], 0.5]]))
    assert observer.bytes_held == 2 * 4 * 4
