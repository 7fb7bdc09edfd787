"""A method is checked when it is made, and gives each site its codec."""

import pytest

from dcache import methods
from dcache.cache.codec import parse
from dcache.errors import DcacheError
from dcache.method import Method, site_list
from dcache.sites.site import Site


def test_the_codec_of_a_site_depends_on_its_kind_unless_it_is_said():
    runs = [Site("trunk", "trunk", 0, 3), Site("run:1-2", "run", 1, 2), Site("block:0", "block")]
    others = [Site("model", "model"), Site("attn:0", "attn"), Site("bracket:0", "bracket")]
    assert [methods.newton().codec_for(s).name for s in runs] == ["delta"] * 3
    assert [methods.newton().codec_for(s).name for s in others] == ["value"] * 3
    said = methods.newton(codec="delta:float16")
    assert {said.codec_for(s) for s in runs + others} == {parse("delta:float16")}


def test_a_method_elsewhere_is_otherwise_the_same():
    method = methods.newton()
    moved = method.with_sites(("mlp",))
    assert moved.sites == ("mlp",)
    assert moved.with_sites(method.sites) == method
    assert site_list("a") == site_list(["a"]) == ("a",)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sites": ()}, "sites"),
        ({"clock": "x"}, "clock"),
        ({"branches": None}, "branches"),
        ({"codec": "x"}, "codec"),
    ],
)
def test_a_method_is_checked_when_it_is_made(options, says):
    with pytest.raises(DcacheError, match=says):
        Method("mine", rule=lambda moment: None, **options)
