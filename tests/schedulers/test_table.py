"""The static table: the row of a branch and a site, looked up."""

from dataclasses import replace

import pytest

from dcache.errors import DcacheError
from dcache.schedulers import Table
from tests.rules import moment


def test_table_looks_up_its_branch_or_the_one_for_all():
    table = Table({"cond": {"trunk": (True, False)}, "*": {"trunk": (False, True)}})
    assert [table(moment(i, branch="cond")) for i in range(2)] == ["schedule", None]
    assert [table(moment(i, branch="uncond")) for i in range(2)] == [None, "schedule"]


def test_table_without_a_row_for_the_site_says_so():
    table = Table({"*": {"trunk": (True, False)}})
    with pytest.raises(DcacheError, match="no row for site 'block:1', only for trunk"):
        table(moment(0, site="block:1"))


def test_the_rows_of_a_later_run_begin_behind_those_before():
    table = Table({"*": {"trunk": (True, False, False, True, False)}})
    computed = [table(replace(moment(i), offset=3)) for i in range(2)]
    assert computed == ["schedule", None]
