"""Checks of numbers: what passes, and what the message says of the rest."""

import math

import pytest

from dcache.errors import DcacheError
from dcache.util.checks import check_share


def test_a_share_is_a_float_below_one_and_a_count_a_whole_number():
    for good in (1, 7, 0.1, 0.999):
        check_share("blocks", good, 1)
    for wrong in (0, -1, 0.0, 1.0, 1.5, -0.5, math.nan, "1", None, True):
        with pytest.raises(DcacheError, match="blocks"):
            check_share("blocks", wrong, 1)
