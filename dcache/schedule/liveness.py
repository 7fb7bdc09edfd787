"""Liveness: the computed events of a schedule that can reach an output. Others are dead and can be dropped.

An event is (evaluation, site). Sites run one after another or inside one another, and this decides what an
event reads:

- a computed site reads everything that ran before it in its evaluation;
- a predicted site reads its last `order + 1` anchors, and through each of them everything that ran before the
  anchor in the anchor's evaluation;
- it also reads its fresh input, unless it covers whole blocks under the codec `value`;
- sites inside a predicted site do not run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from dcache.schedule.anchors import last_before
from dcache.sites.names import FAR, RUN_KINDS, Place, Span, default_codec, kinds_of, span_of

Row = tuple[bool, ...]

_WHOLE_BLOCKS = RUN_KINDS | {"model", "bracket"}


def live_rows(rows: Mapping[str, Row], order: int, codec: str | None) -> dict[str, Row]:
    """The canonical rows of one branch: True for live computed events only. Idempotent.

    A site's first event is computed even if its row says predict, since there is no anchor; where it is live
    the canonical row says so. Rows beside a bracket or `guidance` are returned unchanged.

    Args:
        rows: site -> one bool per evaluation.
        order: the predictor's order; `order + 1` anchors are read.
        codec: the codec of all sites, or None for the defaults.
    """
    # Names do not say which sites lie inside a bracket; `guidance` is part of the batch, not of the model.
    if "guidance" in rows or (len(rows) > 1 and any(site.startswith("bracket") for site in rows)):
        return dict(rows)
    steps = len(next(iter(rows.values())))
    spans = {site: span_of(site) for site in rows}
    ran, outer = executed(rows)
    anchors = {site: [t for t in range(steps) if (t, site) in ran] for site in rows}
    # Latest end first; of sites that end together the outermost first.
    backwards = sorted(rows, key=lambda s: (spans[s].last, -spans[s].first[0]), reverse=True)
    live: set[tuple[int, str]] = set()
    # A read (t, place) makes everything live that ran up to `place` in evaluation t. The first reads are the
    # outputs of all evaluations.
    reads: deque[tuple[int, Place]] = deque((t, (FAR, 0)) for t in range(steps))
    done: set[tuple[int, Place]] = set()
    # Evaluations that were read completely, so that any other read of them adds nothing.
    whole: set[int] = set()
    while reads:
        t, place = reads.popleft()
        if t in whole or (t, place) in done:
            continue
        done.add((t, place))
        for site in backwards:
            # Skip sites after the place that is read, and sites that were not reached.
            if spans[site].last > place or any((t, o) not in ran for o in outer[site]):
                continue
            if (t, site) in ran:
                live.add((t, site))
                continue
            # Predicted: its anchors are read, in evaluations in which every site around it was computed.
            for i in last_before(t, anchors[site], order + 1):
                live.update((i, o) for o in outer[site])
                reads.append((i, spans[site].last))
            # The prediction ignores its input, so nothing before it in this evaluation is read.
            if _ignores_input(site, codec):
                break
        else:
            if place == (FAR, 0):
                whole.add(t)
    return {site: tuple((t, site) in live for t in range(steps)) for site in rows}


def executed(rows: Mapping[str, Row]) -> tuple[set[tuple[int, str]], dict[str, list[str]]]:
    """The events that are computed, and the sites around each site.

    A site is reached if every site around it is computed. It is computed if its row says so, or if it has no
    anchor yet.

    Args:
        rows: site -> one bool per evaluation.

    Returns:
        The computed events (evaluation, site), and site -> sites that contain it.
    """
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


def _ignores_input(site: str, codec: str | None) -> bool:
    """True if a prediction of the site does not depend on the site's input, for every kind the site can have.

    Under `value`, whole blocks ignore their input. Sublayers never do: their output is added to a fresh
    stream.
    """
    kinds = kinds_of(site)
    by_value = all((codec or default_codec(kind)).startswith("value") for kind in kinds)
    return by_value and _WHOLE_BLOCKS.issuperset(kinds)
