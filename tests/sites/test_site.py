"""Sites are values; what was found in a model is itself and nothing else."""

import pytest
from torch import nn

from dcache.sites.site import LongSkip, Site, Skip, Sublayer


@pytest.mark.parametrize(
    ("kind", "is_run"),
    [
        ("trunk", True),
        ("run", True),
        ("block", True),
        ("model", False),
        ("guidance", False),
        ("bracket", False),
        ("attn", False),
        ("cross_attn", False),
        ("mlp", False),
        ("fused", False),
    ],
)
def test_a_run_covers_whole_blocks_of_the_trunk(kind: str, is_run: bool) -> None:
    assert Site(f"{kind}:0", kind).is_run == is_run


def test_sites_are_equal_by_what_they_say() -> None:
    assert Site("run:1-3", "run", 1, 3) == Site("run:1-3", "run", 1, 3)
    assert (
        len({Site("run:1-3", "run", 1, 3), Site("run:1-3", "run", 1, 3), Site("run:1-2", "run", 1, 2)}) == 2
    )
    # The bracket of a block list with long skips is a run of blocks under a bracket's name.
    assert Site("bracket:0", "run", 1, 6) != Site("bracket:0", "bracket", 0, 0)


def test_what_was_found_is_equal_to_itself_only() -> None:
    module = nn.Identity()
    for made in (lambda: Sublayer("attn:0", "attn", 0, module), lambda: Skip(module, 8, ())):
        one = made()
        assert one == one  # noqa: PLR0124 - identity is what is tested
        assert one != made()
    # A sublayer without more needs nothing else to be left out.
    assert Sublayer("attn:0", "attn", 0, module).feeders == ()


def test_a_long_skip_is_the_pair_of_its_blocks() -> None:
    assert LongSkip(0, 7) == (0, 7)
    source, sink = LongSkip(source=1, sink=6)
    assert (source, sink) == (1, 6)
