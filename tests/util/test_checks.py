"""Checks of numbers: what passes, and what the message says of the rest."""

import math
from typing import Any

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.util.checks import check_number, check_share, check_whole, check_wholes, is_number, is_whole


def test_a_share_is_a_float_below_one_and_a_count_a_whole_number():
    for good in (1, 7, 0.1, 0.999):
        check_share("blocks", good, 1)
    for wrong in (0, -1, 0.0, 1.0, 1.5, -0.5, math.nan, "1", None, True):
        with pytest.raises(DcacheError, match="blocks"):
            check_share("blocks", wrong, 1)


@pytest.mark.parametrize("value", [2, 3, 10**30])
def test_a_whole_number_passes_from_its_least_on(value):
    check_whole("interval", value, 2)


@pytest.mark.parametrize("value", [1, 0, -3, 2.0, 2.5, True, "3", None, [3], math.nan])
def test_what_is_no_whole_number_is_refused_by_its_name_with_its_least(value):
    with pytest.raises(DcacheError) as caught:
        check_whole("interval", value, 2)
    assert str(caught.value) == f"interval must be a whole number of at least 2, got {value!r}"


@pytest.mark.parametrize("value", [0.5, 1, 2.0, math.inf, 10**30])
def test_a_number_passes_from_its_least_on(value):
    check_number("threshold", value, 0.5)


@pytest.mark.parametrize("value", [0.49, 0, -1, math.nan, -math.inf, True, False, "1", None, [1.0]])
def test_what_is_no_number_is_refused_by_its_name_with_its_least(value):
    with pytest.raises(DcacheError) as caught:
        check_number("threshold", value, 0.5)
    assert str(caught.value) == f"threshold must be a number of at least 0.5, got {value!r}"


def test_a_share_is_refused_as_a_share_and_a_count_as_a_count():
    with pytest.raises(DcacheError, match=r"blocks as a share must lie between 0 and 1, got 1\.5"):
        check_share("blocks", 1.5, 1)
    with pytest.raises(DcacheError, match="blocks must be a whole number of at least 2, got 1"):
        check_share("blocks", 1, 2)


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


def test_a_list_of_whole_numbers_is_returned_as_a_tuple():
    assert check_wholes("steps", [0, 3], 0) == check_wholes("steps", (0, 3), 0) == (0, 3)
    assert check_wholes("steps", range(2), 0) == (0, 1)
    for wrong in (-4, None, "03", b"\x00", {0, 3}, 1.5):
        with pytest.raises(DcacheError, match="steps must be a list of whole numbers"):
            check_wholes("steps", wrong, 0)
    for wrong in ([-1], [1.0], [True], ["1"]):
        with pytest.raises(DcacheError, match="every entry of steps must be a whole number of at least 0"):
            check_wholes("steps", wrong, 0)
