"""Liveness: which computed events of a schedule can reach an output. The rest is dead and may be dropped.

Events are (evaluation, site). The regions of a denoiser run one after another or inside one another. An event
reads what ran before it in the same evaluation; a prediction reads its last `order + 1` computed anchors
instead, each of which reads what ran before it in its own evaluation; predicted blocks under the `value`
codec read nothing of their own evaluation. What lies inside a predicted region is not run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from dcache.schedule.anchors import last_before
from dcache.sites.names import FAR, RUN_KINDS, Place, Span, default_codec, kinds_of, span_of

Row = tuple[bool, ...]

_WHOLE_BLOCKS = RUN_KINDS | {"model", "bracket"}


def live_rows(rows: Mapping[str, Row], order: int, codec: str | None) -> dict[str, Row]:
    """The canonical rows of one branch: dead computes off, forced first ones on where live; idempotent.

    A bracket's inside is not told by the names of other sites, so beside a bracket every row stays as it is;
    so it does beside `guidance`, which is no part of the model but of its batch.

    Args:
        rows: site -> one bool per evaluation.
        order: the predictor's order; `order + 1` anchors are read.
        codec: the codec of all sites, or None for the defaults.
    """
    if "guidance" in rows or (len(rows) > 1 and any(site.startswith("bracket") for site in rows)):
        return dict(rows)
    steps = len(next(iter(rows.values())))
    spans = {site: span_of(site) for site in rows}
    ran, outer = executed(rows)
    anchors = {site: [t for t in range(steps) if (t, site) in ran] for site in rows}
    backwards = sorted(rows, key=lambda s: (spans[s].last, -spans[s].first[0]), reverse=True)
    live: set[tuple[int, str]] = set()
    # What is read: everything up to a place of an evaluation. First all outputs.
    reads: deque[tuple[int, Place]] = deque((t, (FAR, 0)) for t in range(steps))
    done: set[tuple[int, Place]] = set()
    # Evaluations of which everything was read: those come first, and most other reads are parts of them.
    whole: set[int] = set()
    while reads:
        t, place = reads.popleft()
        if t in whole or (t, place) in done:
            continue
        done.add((t, place))
        for site in backwards:
            if spans[site].last > place or any((t, o) not in ran for o in outer[site]):
                continue
            if (t, site) in ran:
                live.add((t, site))
                continue
            for i in last_before(t, anchors[site], order + 1):
                live.update((i, o) for o in outer[site])
                reads.append((i, spans[site].last))
            if _reads_nothing_now(site, codec):
                break
        else:
            if place == (FAR, 0):
                whole.add(t)
    return {site: tuple((t, site) in live for t in range(steps)) for site in rows}


def executed(rows: Mapping[str, Row]) -> tuple[set[tuple[int, str]], dict[str, list[str]]]:
    """The events that compute (reached, and asked to or without an anchor yet); site -> what it is inside."""
    spans = {site: span_of(site) for site in rows}
    outer = {s: [o for o in rows if _contains(spans[o], spans[s])] for s in rows}
    ran: set[tuple[int, str]] = set()
    anchored: set[str] = set()
    outside_in = sorted(rows, key=lambda s: len(outer[s]))
    for t in range(len(next(iter(rows.values())))):
        for site in outside_in:
            reached = all((t, o) in ran for o in outer[site])
            if reached and (rows[site][t] or site not in anchored):
                ran.add((t, site))
                anchored.add(site)
    return ran, outer


def _contains(outer: Span, inner: Span) -> bool:
    return outer != inner and outer.first <= inner.first and inner.last <= outer.last


def _reads_nothing_now(site: str, codec: str | None) -> bool:
    """Whether a prediction here ignores its input, of whatever kind the site is.

    Whole blocks do under `value`; sublayers never do, since they add to a fresh stream.
    """
    kinds = kinds_of(site)
    by_value = all((codec or default_codec(kind)).startswith("value") for kind in kinds)
    return by_value and _WHOLE_BLOCKS.issuperset(kinds)
