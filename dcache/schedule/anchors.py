"""Anchors: the computed evaluations that a prediction reads."""

from __future__ import annotations

from collections.abc import Iterable


def last_before(t: int, anchors: Iterable[int], count: int) -> list[int]:
    """The last `count` anchors before an evaluation, oldest first; all of them if there are fewer.

    >>> last_before(7, [0, 2, 5, 7, 9], count=2)
    [2, 5]

    Args:
        t: the evaluation.
        anchors: computed evaluations, ascending.
        count: at least 1.
    """
    return [anchor for anchor in anchors if anchor < t][-count:]
