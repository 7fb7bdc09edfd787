"""Names of sites: the kind, place and default codec of a region, from its name."""

from __future__ import annotations

import re
from typing import NamedTuple

Place = tuple[int, int]

SITE_NAME = re.compile(
    r"(?:model|guidance|trunk|run:(?P<first>\d+)-(?P<last>\d+)"
    r"|frames|(?P<kind>block|bracket|frames|attn|cross_attn|mlp|fused)(?:\.\w+)?:(?P<depth>\d+))"
)
_ORDER = {"attn": 0, "cross_attn": 1, "mlp": 2, "fused": 3, "frames": 4}
# A depth after every block.
FAR = 1 << 30
# Kinds of sites that cover whole blocks of the trunk.
RUN_KINDS = frozenset(("trunk", "run", "block"))


class Span(NamedTuple):
    """First and last place of a region in execution order, as (block depth, place inside the block)."""

    first: Place
    last: Place


def default_codec(kind: str) -> str:
    """The codec of a kind of site if the method names none: `delta` for runs of blocks, else `value`."""
    return "delta" if kind in RUN_KINDS else "value"


def kinds_of(site: str) -> tuple[str, ...]:
    """The kinds that a site of this name can have.

    It is one kind, except for a bracket: on a block list with long skips that is a run of blocks, on a UNet
    it has its own kind.
    """
    kind = site.partition(":")[0].partition(".")[0]
    return ("run", "bracket") if kind == "bracket" else (kind,)


def span_of(site: str) -> Span:
    """The span of a site, from its name.

    Raises:
        ValueError: it is no site's name.
    """
    match = SITE_NAME.fullmatch(site)
    if match is None:
        raise ValueError(f"{site!r} is no site's name")
    if match["first"] is not None:
        return Span((int(match["first"]), -1), (int(match["last"]), 9))
    if match["depth"] is None or match["kind"] == "bracket":
        edge = 2 if site == "model" else 1
        return Span((-edge, -1), (FAR - 3 + edge, 9))
    depth, kind = int(match["depth"]), match["kind"]
    if kind == "block":
        return Span((depth, -1), (depth, 9))
    return Span((depth, _ORDER[kind]), (depth, _ORDER[kind]))
