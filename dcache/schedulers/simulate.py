"""A rule without its model: which evaluations it computes at one site, from changes that are given."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from dcache.schedulers.rules import Rule, SiteInfo, StepContext


def simulate(
    rule: Rule, steps: int, site: SiteInfo, changes: Sequence[float] | None = None, depth: int = 1
) -> tuple[int, ...]:
    """Walk a run as the session does: what has no anchor yet is computed whatever the rule says.

    Args:
        rule: asked at every evaluation.
        steps: evaluations of the run.
        site: where.
        changes: what the probe says in each evaluation, for rules that look.
        depth: number of blocks of the denoiser's trunk.
    """
    computed: list[int] = []
    memory: dict[str, float] = {}
    for t in range(steps):
        run_length = t - computed[-1] - 1 if computed else 0
        change = float("inf") if changes is None else changes[t]
        now = StepContext(t, steps, run_length, site, "*", depth, partial(float, change), _unknown, memory)
        if rule(now) is not None or not computed:
            computed.append(t)
    return tuple(computed)


def _unknown() -> None:
    """No run is under way that had timesteps."""
