import math

import pytest
import torch

from dcache.lm_kv.model.states import States
from dcache.lm_kv.reuse.anchors import Anchor, alike, by_channel, by_token, changed


def states(value: float, tokens: int = 3) -> States:
    """Two layers of two heads with two channels, all of one value."""
    full = {layer: torch.full((1, 2, tokens, 2), value) for layer in range(2)}
    return States(dict(full), dict(full))


def anchor(value: float, change: float, tokens: int = 3) -> Anchor:
    return Anchor("x", states(value, tokens), states(change, tokens))


def test_one_near_anchor_among_far_ones_is_alike_and_counted():
    near, far = anchor(0.1, 0.0, 4), anchor(9.0, 0.0)
    assert len(near) == 4
    assert alike(states(0.0), 3, [near, far], 0.3)
    assert (near.uses, far.uses) == (1, 1)
    # Distances of 0.1, 0.2 and 9 over 24 numbers each: two are nearly as likely.
    assert not alike(states(0.0), 3, [near, anchor(0.2, 0.0), far], 0.3)
    assert near.uses == 1
    assert not alike(states(0.0), 3, [near], 1.0)


def test_the_entropy_is_that_of_likeness_by_distance():
    distances = torch.tensor([0.1, 0.3]) * math.sqrt(24)
    likeness = (-distances).softmax(0)
    share = -float((likeness * likeness.log2()).sum())
    pair = [anchor(0.1, 0.0), anchor(0.3, 0.0)]
    assert alike(states(0.0), 3, pair, share + 1e-3)
    assert not alike(states(0.0), 3, pair, share - 1e-3)


@pytest.mark.parametrize(
    ("weigh", "differences"),
    # The mean difference of a token, and the distance over three tokens.
    [(by_token, [0.5, 1.0]), (by_channel, [0.5 * 3**0.5, 3**0.5])],
    ids=["by token", "by channel"],
)
def test_a_chunk_gets_the_weighted_changes_of_its_anchors(weigh, differences):
    anchors = [anchor(0.5, 2.0), anchor(1.0, 6.0, 5)]
    expected = (torch.tensor(differences).neg().softmax(0) * torch.tensor([2.0, 6.0])).sum()
    result = changed(states(0.0), 3, anchors, weigh(states(0.0), 3, anchors))
    for side in (result.keys, result.values):
        for layer in range(2):
            torch.testing.assert_close(side[layer], torch.full((1, 2, 3, 2), float(expected)))


def test_tokens_have_weights_of_their_own():
    one, two = anchor(0.0, 1.0), anchor(0.0, 3.0)
    one.base.keys[0][:, :, 0] = 200.0
    two.base.keys[1][:, :, 2] = 200.0
    keys = changed(states(0.0), 3, [one, two], by_token(states(0.0), 3, [one, two])).keys[0]
    assert keys[0, 0, :, 0].tolist() == pytest.approx([3.0, 2.0, 1.0])
