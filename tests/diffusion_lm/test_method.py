"""`RowMethod`: options of the engine, and its description."""

import pytest

from dcache import DcacheError
from dcache.diffusion_lm import RowMethod, RowPolicy
from tests.diffusion_lm.steps import step


def test_options_are_checked():
    for delay in (2, -1, True, "1"):
        with pytest.raises(DcacheError, match="delay must be 0 or 1"):
            RowMethod("x", policy=RowPolicy(), delay=delay)
    with pytest.raises(DcacheError, match="mask_id must be a whole number of at least 0"):
        RowMethod("x", policy=RowPolicy(), mask_id=-1)
    for name in ("block", "window"):
        policy = RowPolicy()
        setattr(policy, name, 0)
        with pytest.raises(DcacheError, match=f"{name} must be a whole number of at least 1, got 0"):
            RowMethod("x", policy=policy)


def test_a_description_is_the_presets_call():
    method = RowMethod("x", policy=RowPolicy(), parameters={"a": 1})
    assert method.describe() == "x(a=1)"
    assert RowMethod("x", policy=RowPolicy(), delay=0).describe() == "x(delay=0)"


def test_a_policy_defines_rows_alone():
    assert RowPolicy().refresh(step()) is None
    with pytest.raises(NotImplementedError):
        RowPolicy().rows(step())
