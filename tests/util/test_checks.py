"""Checks of numbers: what passes, and what the message says of the rest."""

import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from dcache.errors import DcacheError
from dcache.util.checks import (
    check_number,
    check_odd,
    check_share,
    check_whole,
    check_wholes,
    is_finite,
    is_number,
    is_whole,
    plain,
)


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
        (np.int64(1), True, True),
        (np.float32(1), False, True),
        (torch.tensor(1), True, True),
        (torch.tensor(0.5), False, True),
        (torch.tensor(True), False, False),
        (torch.tensor([1]), False, False),
        (torch.empty((), device="meta"), False, False),
        (np.bool_(True), False, False),
        (Fraction(1, 2), False, True),
        (1j, False, False),
        ([1], False, False),
    ],
)
def test_a_truth_value_is_no_number(value: Any, whole: bool, number: bool) -> None:
    assert (is_whole(value), is_number(value)) == (whole, number)


@pytest.mark.parametrize(
    ("value", "finite"),
    [
        pytest.param(0, True, id="zero"),
        pytest.param(-1.7e308, True, id="float"),
        pytest.param(10**308, True, id="int"),
        pytest.param(10**400, False, id="large"),
        pytest.param(-(10**400), False, id="small"),
        pytest.param(math.inf, False, id="infinity"),
        pytest.param(math.nan, False, id="nan"),
        pytest.param(np.float32("inf"), False, id="numpy"),
        pytest.param(torch.tensor(math.inf), False, id="tensor-infinity"),
        pytest.param(torch.tensor(math.nan), False, id="tensor-nan"),
        pytest.param(torch.tensor(2.0), True, id="tensor"),
        pytest.param(True, False, id="bool"),
        pytest.param("1", False, id="text"),
    ],
)
def test_a_finite_number_is_one_that_a_float_can_hold(value: Any, finite: bool) -> None:
    assert is_finite(value) is finite


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


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (np.int64(3), 3),
        (np.float64(0.5), 0.5),
        (torch.tensor(0.25, dtype=torch.bfloat16, requires_grad=True), 0.25),
        (Fraction(1, 4), 0.25),
        (np.array([1, 2]), [1, 2]),
        (torch.tensor([0.5]), [0.5]),
        ((np.int8(1), [np.float32(0.5), "a"]), (1, [0.5, "a"])),
        (np.bool_(False), False),
    ],
)
def test_numbers_of_other_libraries_become_pythons_to_the_last_entry(value: Any, number: Any) -> None:
    assert json.dumps(plain(value)) == json.dumps(number)
    assert type(plain(value)) is type(number)


@pytest.mark.parametrize("value", ["3", b"3", None, True, 3, 0.5, [1, "a"], (), {"a": 1}, math.inf, object])
def test_all_else_stays_the_same_object(value: Any) -> None:
    assert plain(value) is value


def test_checked_numbers_are_returned_as_pythons():
    wholes = check_wholes("a", np.ones(1, int), 0)
    assert json.dumps([check_whole("a", np.int64(3), 0), check_number("a", torch.tensor(0.5)), *wholes]) == (
        "[3, 0.5, 1]"
    )


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        ({}, "a number"),
        ({"most": 1}, "a number of at most 1"),
        ({"least": 0, "most": 1}, "a number of at least 0 and at most 1"),
    ],
)
def test_a_number_is_refused_with_the_bounds_that_there_are(bounds: dict[str, float], says: str) -> None:
    with pytest.raises(DcacheError) as caught:
        check_number("sigma", math.nan, **bounds)
    assert str(caught.value) == f"sigma must be {says}, got nan"


def test_a_width_is_odd():
    assert [check_odd("pool", value) for value in (1, np.int64(5))] == [1, 5]
    whole = "a whole number of at least 1"
    for value, says in ((0, whole), (2.0, whole), (4, "odd")):
        with pytest.raises(DcacheError) as caught:
            check_odd("pool", value)
        assert str(caught.value) == f"pool must be {says}, got {value!r}"
