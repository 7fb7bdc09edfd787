"""`AttentionSwitch`: set while forwards run, and what was set before comes back with the last of them."""

from __future__ import annotations

import pytest

from dcache.util.attention_switch import AttentionSwitch


class Config:
    """What transformers' configs have of it."""

    def __init__(self, name: str) -> None:
        self._attn_implementation_internal = name

    @property
    def _attn_implementation(self) -> str:
        return self._attn_implementation_internal


def test_what_was_set_before_comes_back_with_the_last_forward() -> None:
    switch, first, second = AttentionSwitch("ours"), Config("sdpa"), Config("eager")
    assert switch.before(first) == "sdpa"
    with switch.during([first, second]):
        with switch.during([first]):
            assert first._attn_implementation == second._attn_implementation == "ours"
            assert (switch.before(first), switch.before(second)) == ("sdpa", "eager")
        assert first._attn_implementation == "ours"
    assert (first._attn_implementation, second._attn_implementation) == ("sdpa", "eager")


def test_it_comes_back_after_an_exception() -> None:
    switch, config = AttentionSwitch("ours"), Config("sdpa")
    with pytest.raises(ValueError, match="broken"), switch.during([config]):
        raise ValueError("broken")
    assert config._attn_implementation == "sdpa"


def test_two_switches_may_be_nested() -> None:
    outer, inner, config = AttentionSwitch("outer"), AttentionSwitch("inner"), Config("sdpa")
    with outer.during([config]):
        with inner.during([config]):
            assert config._attn_implementation == "inner"
            assert (inner.before(config), outer.before(config)) == ("outer", "sdpa")
        assert config._attn_implementation == "outer"
    assert config._attn_implementation == "sdpa"
