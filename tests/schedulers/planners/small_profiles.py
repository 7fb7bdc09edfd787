"""Small profiles whose features are known."""

from __future__ import annotations

from typing import Any

import numpy as np

from dcache.profile import FeatureTables, Latencies, Profile


def tables(features: np.ndarray) -> FeatureTables:
    """The tables of features (T, n)."""
    z = np.asarray(features, np.float64)
    return FeatureTables(
        z @ z.T / z.shape[1],
        np.abs(z[:, None] - z[None, :]).mean(axis=2),
        np.abs(z).mean(axis=1),
    )


def profile(features: dict[str, np.ndarray], **more: Any) -> Profile:
    """A profile of one branch, the same features as values and as deltas."""
    steps = len(next(iter(features.values()))) if features else 0
    sites = {site: {"0": {"value": tables(z), "delta": tables(z)}} for site, z in features.items()}
    return Profile(steps, sites, component="transformer", **more)


def drifting(steps: int, seed: int, n: int = 16) -> np.ndarray:
    """Features (T, n) of a random walk with paces of its own."""
    rng = np.random.default_rng(seed)
    return 3.0 * rng.normal(size=n) + np.cumsum(rng.normal(size=(steps, n)) * rng.random((steps, 1)), axis=0)


def rows(schedule: Any) -> dict[str, list[int]]:
    """Site -> computed evaluations of a schedule of one denoiser."""
    (plan,) = schedule.components.values()
    (branch,) = plan.rows.values()
    return {site: [t for t, c in enumerate(row) if c] for site, row in branch.items()}


def timed(sites: dict[str, float], rest: float = 1.0, steps: int = 10) -> Latencies:
    """Seconds of sites that are predicted for nothing, and the rest of a call."""
    return Latencies(rest + steps * sum(sites.values()), sites, dict.fromkeys(sites, 0.0))
