"""What a rule is given, and the evaluations that a rule or a method computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from dcache.method import Method
from dcache.schedulers import Rule, StepContext
from dcache.schedulers.simulate import simulate
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
) -> StepContext:
    """A rule's argument; a test gives the fields that matter to it."""
    read = change if callable(change) else lambda: change
    kept = {} if memory is None else memory
    return StepContext(
        index, count, run_length, site_of(site, depth), branch, depth, read, lambda: time, kept
    )


def computed_steps(
    rule: Rule | Method,
    steps: int,
    changes: Sequence[float] | None = None,
    known: bool = True,
    times: Sequence[float] | None = None,
    site: str = "trunk",
) -> list[int]:
    """The evaluations that are computed at one site, as `simulate` finds them.

    Args:
        rule: a rule, or a method for its rule.
        steps: evaluations of the run.
        changes: the probe's change in each evaluation.
        known: whether the run tells its number of evaluations.
        times: timestep of each evaluation, where the run tells them.
        site: the site's name.
    """
    decide = rule.rule if isinstance(rule, Method) else rule

    def of_this_run(now: StepContext) -> str | None:
        time = None if times is None else times[now.index]
        return decide(replace(now, count=now.count if known else None, time=lambda: time))

    return list(simulate(of_this_run, steps, site_of(site), changes, DEPTH))
