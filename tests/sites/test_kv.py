"""Key and value projections by depth."""

from __future__ import annotations

import pytest

from dcache.errors import DcacheError
from dcache.sites.discovery import discover
from dcache.sites.kv import kv_sites
from tests.pipelines import SHAPES


def test_depths_are_listed_and_ranged() -> None:
    structure = discover(SHAPES["pixart"].build().transformer)
    assert [site.depth for site in kv_sites(structure)] == list(range(len(structure.blocks)))
    chosen = kv_sites(structure, "kv:2,0-1,1")
    assert [site.depth for site in chosen] == [2, 0, 1]
    assert [site.key for site in chosen] == [structure.blocks[i].attn1.to_k for i in (2, 0, 1)]
    assert [site.value for site in chosen] == [structure.blocks[i].attn1.to_v for i in (2, 0, 1)]


def test_blocks_with_attention_and_mlp_in_one_have_them_too() -> None:
    structure = discover(SHAPES["flux"].build().transformer)
    assert len(kv_sites(structure)) == len(structure.blocks)


@pytest.mark.parametrize(
    ("spec", "says"), [("attn", "as in 'kv:0,7-10'"), ("kv:0-", "as in"), ("kv:99", r"blocks \[99\]")]
)
def test_other_specifications_are_refused(spec: str, says: str) -> None:
    structure = discover(SHAPES["pixart"].build().transformer)
    with pytest.raises(DcacheError, match=says):
        kv_sites(structure, spec)
