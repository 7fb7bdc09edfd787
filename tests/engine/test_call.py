"""A call of the denoiser: an object of its own, whatever its fields say."""

import pytest

from dcache.cache.history import Branch
from dcache.engine.call import Call


def test_a_call_begins_with_nothing_decided() -> None:
    branch = Branch("0", 2)
    call = Call(branch, 3, 0.5)
    assert (call.branch, call.index, call.tau) == (branch, 3, 0.5)
    assert (call.predicted, call.computed, call.entered) == (0, 0, 0)
    assert (call.observing, call.checking, call.probing_attention) == (False, False, False)
    assert (call.half, call.counts, call.probe_attention, call.run) == (None, None, None, None)


def test_two_calls_with_the_same_fields_are_two_calls() -> None:
    # What was decided in one call must not count in another: an evaluation may come twice.
    branch = Branch("0", 1)
    first, second = Call(branch, 0, 0.0), Call(branch, 0, 0.0)
    assert first != second
    assert len({first, second}) == 2


def test_a_misspelt_field_is_an_error() -> None:
    with pytest.raises(AttributeError, match="predictd"):
        Call(Branch("0", 1), 0, 0.0).predictd = 1  # type: ignore[attr-defined]
