"""Rows of branches."""

from dcache.schedule.plan import merge_equal_branches

ROW, OTHER = {"trunk": (True, False)}, {"trunk": (True, True)}


def test_branches_with_the_same_rows_become_one() -> None:
    assert merge_equal_branches({"0": ROW, "1": dict(ROW)}) == {"*": ROW}
    assert merge_equal_branches({"0": ROW}) == {"*": ROW}
    assert merge_equal_branches({"*": ROW}) == {"*": ROW}


def test_branches_with_other_rows_stay_as_they_are() -> None:
    rows = {"0": ROW, "1": OTHER}
    assert merge_equal_branches(rows) is rows
    assert merge_equal_branches({}) == {}
