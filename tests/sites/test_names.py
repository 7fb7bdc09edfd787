"""What a site's name says of its kind, and the codec of a kind where none is named."""

import pytest

from dcache import methods
from dcache.sites.names import default_codec, kinds_of, span_of
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
