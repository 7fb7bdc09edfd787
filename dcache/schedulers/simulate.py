"""Simulation of a rule without a model: the evaluations that it computes at one site."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from dcache.schedulers.rules import Rule, SiteInfo, StepContext


def simulate(
    rule: Rule, steps: int, site: SiteInfo, changes: Sequence[float] | None = None, depth: int = 1
) -> tuple[int, ...]:
    """The computed evaluations of a run, with the session's decisions: without an anchor a site is computed.

    Args:
        rule: called for every evaluation.
        steps: evaluations of the run.
        site: the site.
        changes: the probe's change in each evaluation, for dynamic rules; None is infinite change.
        depth: number of blocks of the denoiser's trunk.
    """
    computed: list[int] = []
    memory: dict[str, float] = {}
    for t in range(steps):
        run_length = t - computed[-1] - 1 if computed else 0
        change = float("inf") if changes is None else changes[t]
        context = StepContext(
            t, steps, run_length, site, "*", depth, partial(float, change), _unknown, memory
        )
        if rule(context) is not None or not computed:
            computed.append(t)
    return tuple(computed)


def _unknown() -> None:
    """The timestep of a simulated run: None."""
