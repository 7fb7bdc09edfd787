"""Moments for the tests of rules and presets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from dcache.method import Method
from dcache.schedulers import Moment, Rule
from dcache.sites.site import Site

DEPTH = 4


def site_of(name: str, depth: int = DEPTH) -> Site:
    """A site by its name."""
    kind, _, where = name.partition(":")
    if kind == "trunk":
        return Site(name, kind, 0, depth - 1)
    first, _, last = where.partition("-")
    return Site(name, kind, int(first or 0), int(last or first or 0))


def moment(  # noqa: PLR0917 - as many as a moment has fields
    index: int = 5,
    count: int | None = 10,
    run_length: int = 0,
    change: float | Callable[[], float] = math.inf,
    site: str = "trunk",
    branch: str = "0",
    time: float | None = None,
    memory: dict[str, float] | None = None,
    depth: int = DEPTH,
) -> Moment:
    """A moment of which the test tells only what matters."""
    read = change if callable(change) else lambda: change
    kept = {} if memory is None else memory
    return Moment(index, count, run_length, site_of(site, depth), branch, depth, read, lambda: time, kept)


def computed_steps(
    rule: Rule | Method, steps: int, changes: list[float] | None = None, known: bool = True, **more: Any
) -> list[int]:
    """Walk a run of one site as the session does: without history it computes whatever the rule says."""
    asked = rule.rule if isinstance(rule, Method) else rule
    times = more.pop("times", None)
    full: list[int] = []
    run_length, memory = 0, {}
    for i in range(steps):
        change = changes[i] if changes else math.nan
        time = times[i] if times else None
        now = moment(i, steps if known else None, run_length, change, memory=memory, time=time, **more)
        if asked(now) is not None or not full:
            full.append(i)
            run_length = 0
        else:
            run_length += 1
    return full
