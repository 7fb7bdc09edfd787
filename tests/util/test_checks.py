"""Checks of numbers that a user gives."""

from typing import Any

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.util.checks import check_whole, is_number, is_whole


@pytest.mark.parametrize(
    ("value", "whole", "number"),
    [
        (0, True, True),
        (-3, True, True),
        (1.0, False, True),
        (float("nan"), False, True),
        (True, False, False),
        ("1", False, False),
        (None, False, False),
        (np.int64(1), False, False),
    ],
)
def test_a_truth_value_is_no_number(value: Any, whole: bool, number: bool) -> None:
    assert (is_whole(value), is_number(value)) == (whole, number)


@pytest.mark.parametrize("value", [0, 1.0, True, "3", None])
def test_what_is_no_whole_number_from_a_bound_on_is_refused(value: Any) -> None:
    with pytest.raises(DcacheError, match="count must be a whole number of at least 1, got"):
        check_whole("count", value, 1)
    check_whole("count", 1, 1)
