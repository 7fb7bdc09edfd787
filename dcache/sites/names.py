"""Names of sites: what a name says of the region's kind, its place and its default codec."""

from __future__ import annotations

import re
from typing import NamedTuple

Place = tuple[int, int]

SITE_NAME = re.compile(
    r"(?:model|guidance|trunk|run:(?P<first>\d+)-(?P<last>\d+)"
    r"|(?P<kind>block|bracket|attn|cross_attn|mlp|fused)(?:\.\w+)?:(?P<depth>\d+))"
)
_ORDER = {"attn": 0, "cross_attn": 1, "mlp": 2, "fused": 3}
# A depth behind every block.
FAR = 1 << 30


class Span(NamedTuple):
    """Where a region begins and ends in the order of execution, as (block depth, place inside the block)."""

    first: Place
    last: Place


def span_of(site: str) -> Span:
    """The span of a site, from its name."""
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
