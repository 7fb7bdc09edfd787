"""Runs that overlap are split; sites beside each other are left as they are."""

import pytest

from dcache.sites.discovery import discover
from dcache.sites.overlap import split_overlapping_runs
from dcache.sites.site import Site
from tests.sites.models import BasicTransformerBlock, Flat


@pytest.mark.parametrize("specs", [["attn", "mlp"], ["run:0-1", "attn:2"], ["trunk", "block"]])
def test_sites_beside_each_other_and_runs_that_overlap_are_selected(specs):
    assert len(discover(Flat(BasicTransformerBlock)).select(specs)) >= 2


def test_runs_that_overlap_are_split_where_they_begin_and_end():
    runs = [Site("run:0-2", "run", 0, 2), Site("run:1-3", "run", 1, 3)]
    assert [site.name for site in split_overlapping_runs(runs)] == ["block:0", "run:1-2", "block:3"]
