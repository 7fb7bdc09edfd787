"""What a site's name says of its kind, and the codec of a kind where none is named."""

import pytest

from dcache import methods
from dcache.sites.names import FAR, SITE_NAME, default_codec, kinds_of, span_of
from dcache.sites.site import Site

KINDS = ("model", "guidance", "trunk", "run", "block", "bracket", "attn", "cross_attn", "mlp", "fused")


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_and_the_planners_have_one_default_codec(kind: str) -> None:
    site = Site(f"{kind}:0", kind)
    assert methods.interval(interval=2).codec_for(site).frame == default_codec(kind)
    assert default_codec(kind) == ("delta" if site.is_run else "value")


@pytest.mark.parametrize(
    ("site", "kinds"),
    [
        ("model", ("model",)),
        ("guidance", ("guidance",)),
        ("trunk", ("trunk",)),
        ("run:3-9", ("run",)),
        ("block:3", ("block",)),
        ("attn:3", ("attn",)),
        ("mlp.context:3", ("mlp",)),
        ("bracket:0", ("run", "bracket")),
    ],
)
def test_a_name_says_the_kind_but_for_brackets(site: str, kinds: tuple[str, ...]) -> None:
    """A bracket is a run of blocks on a block list with long skips, and a UNet's bracket elsewhere."""
    assert kinds_of(site) == kinds


@pytest.mark.parametrize("site", ["", "trunks", "block", "attn:x", "run:3", "run:-1-2", "block:-1", "mlp:0 "])
def test_what_is_no_name_has_no_span(site):
    with pytest.raises(ValueError, match="no site's name"):
        span_of(site)


@pytest.mark.parametrize(
    ("site", "first", "last"),
    [
        ("block:3", (3, -1), (3, 9)),
        ("run:3-9", (3, -1), (9, 9)),
        ("run:3-3", (3, -1), (3, 9)),
        ("attn:3", (3, 0), (3, 0)),
        ("cross_attn:3", (3, 1), (3, 1)),
        ("mlp:3", (3, 2), (3, 2)),
        # The text stream's own stands where the picture's does.
        ("mlp.context:3", (3, 2), (3, 2)),
        ("fused:12", (12, 3), (12, 3)),
    ],
)
def test_a_site_lies_where_its_name_says(site, first, last):
    assert span_of(site) == (first, last)


def test_the_model_is_around_the_trunk_and_the_trunk_around_every_block():
    model, trunk, block = (span_of(s) for s in ("model", "trunk", "run:0-999"))
    assert model.first < trunk.first < block.first
    assert block.last < trunk.last < model.last < (FAR, 0)
    # A bracket's level says nothing of where its blocks are.
    assert span_of("bracket:0") == span_of("bracket:7") == trunk


def test_sublayers_of_a_block_are_in_the_order_in_which_they_run():
    names = ["fused:2", "mlp:0", "attn:1", "cross_attn:0", "attn:0"]
    assert sorted(names, key=span_of) == ["attn:0", "cross_attn:0", "mlp:0", "attn:1", "fused:2"]


@pytest.mark.parametrize(
    "site",
    ["model", "guidance", "trunk", "run:0-12", "block:0", "bracket:2", "attn:10", "mlp.context:3", "fused:1"],
)
def test_names_are_kinds_with_depths(site):
    assert SITE_NAME.fullmatch(site)


@pytest.mark.parametrize(
    "site", ["auto", "sublayers", "attn", "model:0", "run:1", "mlp.:0", "attn:1-2", "front:3", "cross_attn?"]
)
def test_specifications_of_several_sites_are_no_names(site):
    assert SITE_NAME.fullmatch(site) is None
