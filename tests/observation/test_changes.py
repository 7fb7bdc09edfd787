"""How the trunk's change grows and moves, of features that halve from one evaluation to the next."""

import numpy as np
import pytest
import torch

import dcache
from dcache import methods
from dcache.engine.session import session_of
from dcache.observation.changes import Changes
from tests.engine.tiny_models import ThreeSublayers, Toy

EVERYTHING = methods.interval(interval=1, sites="trunk")


def walk(toy: Toy, times: tuple[float, ...] = (4.0, 2.0, 1.0)) -> None:
    with torch.no_grad():
        for t in times:
            toy(torch.zeros(1, 3, 4), t)


def test_ratios_are_those_of_the_lengths_of_the_change() -> None:
    toy = dcache.enable(Toy(), EVERYTHING)
    changes = Changes(toy)
    with changes.watching(toy):
        walk(toy)
    ratios, spread = changes.ratios(3)
    # The change is 7 t.
    np.testing.assert_allclose(ratios, [1.0, 0.5, 0.5])
    assert spread == 0.0
    # Without attention the block's own input is paired with it; both are multiples of t.
    pairs = changes.pairs()
    assert pairs is not None
    np.testing.assert_allclose(pairs, [[0.5, 0.5], [0.5, 0.5]], rtol=1e-6)


def test_pairs_are_changes_of_what_attention_is_given_and_of_the_trunk() -> None:
    toy = dcache.enable(Toy([ThreeSublayers(), ThreeSublayers()]), EVERYTHING)
    changes = Changes(toy)
    for times in ((4.0, 2.0, 1.0), (8.0, 2.0, 1.0)):
        with changes.watching(toy):
            walk(toy, times)
    # Both are multiples of t: |2 - 4| / 4, |1 - 2| / 2, then |2 - 8| / 8, |1 - 2| / 2.
    pairs = changes.pairs()
    assert pairs is not None
    np.testing.assert_allclose(pairs, [[0.5, 0.5], [0.5, 0.5], [0.75, 0.75], [0.5, 0.5]], rtol=1e-6)
    ratios, spread = changes.ratios(3)
    np.testing.assert_allclose(ratios, [1.0, (0.5 + 0.25) / 2, 0.5])
    assert spread == pytest.approx(0.125)


def test_what_was_seen_can_be_put_into_another() -> None:
    toy = dcache.enable(Toy([ThreeSublayers(), ThreeSublayers()]), EVERYTHING)
    changes, other = Changes(toy), Changes(toy)
    with changes.watching(toy):
        walk(toy)
    other.restore(changes.content())
    for one, two in ((changes.pairs(), other.pairs()), (changes.ratios(3)[0], other.ratios(3)[0])):
        assert one is not None
        np.testing.assert_array_equal(one, two)
    # Both go on alike.
    for each in (changes, other):
        with each.watching(toy):
            walk(toy, (8.0, 2.0, 1.0))
    np.testing.assert_array_equal(changes.pairs(), other.pairs())
    assert Changes(toy).content()["pairs"].shape == (0, 2)


def test_an_evaluation_that_was_not_seen_leaves_no_ratios() -> None:
    toy = dcache.enable(Toy(), EVERYTHING)
    changes = Changes(toy)
    with changes.watching(toy):
        walk(toy)
    assert changes.ratios(4) == (None, 0.0)


def test_nothing_is_left_on_the_model() -> None:
    toy = dcache.enable(Toy([ThreeSublayers()]), EVERYTHING)
    with Changes(toy).watching(toy):
        assert toy.blocks[0].attn1._forward_pre_hooks
        walk(toy)
    assert not toy.blocks[0].attn1._forward_pre_hooks
    session = session_of(toy)
    assert session is not None
    assert session.observers == []
