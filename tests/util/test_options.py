"""Functions called with options by name, and the closest known name."""

import pytest

from dcache import DcacheError
from dcache.util.options import call_with, did_you_mean, options_of


def area(width: int, height: int = 2) -> int:
    return width * height


def test_options_are_given_by_name_and_unknown_ones_refused_with_the_known() -> None:
    assert options_of(area) == ["width", "height"]
    assert call_with(area, {"width": 3}) == 6
    with pytest.raises(DcacheError, match=r"area has no option 'depth', 'x': it takes width, height$"):
        call_with(area, {"depth": 1, "width": 3, "x": 2})


def test_only_a_close_name_is_proposed() -> None:
    assert did_you_mean("widht", ["height", "width"]) == " Did you mean 'width'?"
    assert did_you_mean("colour", ["height", "width"]) == ""
