"""Liveness: which computed events of a schedule can reach an output. The rest is dead and may be dropped.

Events are (evaluation, site). A computed event reads the sites before it in the same evaluation; a prediction reads
its last `order + 1` computed anchors; a predicted run of blocks under the `value` codec makes everything before it in
that evaluation unread, and whatever lies inside a predicted region is not visited.
"""

from __future__ import annotations

from collections.abc import Mapping

_END = (1 << 30, 0)
_KINDS = {"attn": 0, "cross_attn": 1, "mlp": 2, "fused": 3}


def live_rows(
    rows: Mapping[str, tuple[bool, ...]], order: int, codec: str | None
) -> dict[str, tuple[bool, ...]]:
    """The canonical rows of one branch: dead computes off, forced first computes on; idempotent.

    Args:
        rows: site -> one bool per evaluation.
        order: the predictor's order; `order + 1` anchors are read.
        codec: the codec of all sites, or None for the defaults.
    """
    steps = len(next(iter(rows.values())))
    spans = {site: _span(site) for site in rows}
    outer = {s: [o for o in rows if _contains(spans[o], spans[s])] for s in rows}
    backwards = sorted(rows, key=lambda s: (spans[s][1], -spans[s][0][0]), reverse=True)
    visited, ran = _executed(rows, outer, sorted(rows, key=lambda s: len(outer[s])))
    live: set[tuple[int, str]] = set()
    points = [(t, _END) for t in range(steps)]
    done: set[tuple[int, tuple[int, int]]] = set()
    while points:
        t, point = points.pop()
        if (t, point) in done:
            continue
        done.add((t, point))
        for site in backwards:
            if spans[site][1] > point or (t, site) not in visited:
                continue
            if (t, site) in ran:
                live.add((t, site))
                continue
            anchors = [i for i in range(t) if (i, site) in ran][-(order + 1) :]
            points += [(i, spans[site][1]) for i in anchors]
            if _cuts(site, codec):
                break
    return {site: tuple((t, site) in live for t in range(steps)) for site in rows}


def _executed(
    rows: Mapping[str, tuple[bool, ...]], outer: Mapping[str, list[str]], outside_in: list[str]
) -> tuple[set[tuple[int, str]], set[tuple[int, str]]]:
    """The events whose region is reached, and those of them that compute (asked to, or without an anchor yet)."""
    visited: set[tuple[int, str]] = set()
    ran: set[tuple[int, str]] = set()
    anchored: set[str] = set()
    for t in range(len(next(iter(rows.values())))):
        for site in outside_in:
            if all((t, o) in ran for o in outer[site]):
                visited.add((t, site))
                if rows[site][t] or site not in anchored:
                    ran.add((t, site))
                    anchored.add(site)
    return visited, ran


def _span(site: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where a site begins and ends in the order of execution, as (block depth, place inside the block)."""
    kind, _, where = site.partition(":")
    kind = kind.partition(".")[0]
    if kind in ("model", "trunk", "bracket"):
        return (-1, -1), (1 << 29, 9)
    if kind == "run":
        first, _, last = where.partition("-")
        return (int(first), -1), (int(last), 9)
    depth = int(where)
    if kind == "block":
        return (depth, -1), (depth, 9)
    return (depth, _KINDS[kind]), (depth, _KINDS[kind])


def _contains(
    outer: tuple[tuple[int, int], tuple[int, int]], inner: tuple[tuple[int, int], tuple[int, int]]
) -> bool:
    return outer != inner and outer[0] <= inner[0] and inner[1] <= outer[1]


def _cuts(site: str, codec: str | None) -> bool:
    whole_blocks = site.startswith(("model", "trunk", "run", "block", "bracket"))
    return whole_blocks and (codec or "delta").startswith("value")
