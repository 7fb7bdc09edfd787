"""Policies that go by blocks: `dual`, `prefix`, `freecache`."""

import pytest

from dcache.diffusion_lm.block_rows import BlockRows
from tests.diffusion_lm.steps import listed, step


@pytest.mark.parametrize("later", [False, True])
def test_rows_of_the_block_and_of_those_behind_it(later):
    rows = BlockRows(later=later).rows(step())
    assert listed(rows) == [list(range(4, 12 if later else 8))] * 2


def test_all_rows_when_a_block_begins_or_never_again():
    assert BlockRows().refresh(step(in_block=0)) == "block"
    assert BlockRows().refresh(step()) is None
    assert BlockRows(again=False).refresh(step(in_block=0)) is None
