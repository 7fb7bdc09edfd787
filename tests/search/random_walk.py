"""A world without a model: features that run along a random walk, and a picture that is their sum."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from dcache.profile import FeatureTables, Latencies, Profile
from dcache.search.evaluating.loop import FIT, Task
from dcache.search.fitting.closed_loop import line

STEPS = 9


@cache
def walk(seed: int = 0, steps: int = STEPS) -> np.ndarray:
    """(steps, 50); what changes most comes first."""
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.standard_normal((steps, 50)) * np.linspace(1.0, 0.2, steps)[:, None], axis=0)


def tables(features: np.ndarray) -> FeatureTables:
    apart = np.abs(features[:, None] - features[None]).mean(axis=-1)
    return FeatureTables(features @ features.T / features.shape[1], apart, np.abs(features).mean(axis=-1))


def profile(steps: int = STEPS, sites: Sequence[str] = ("trunk",)) -> Profile:
    """One second of ten is not the sites'; each site's evaluation costs its share of the rest."""
    seen = {
        site: {"*": {"delta": tables(walk(i, steps)), "value": tables(walk(i, steps))}}
        for i, site in enumerate(sites)
    }
    share = 0.9 * 10.0 / steps / len(sites)
    timed = Latencies(10.0, dict.fromkeys(sites, share), dict.fromkeys(sites, 0.1 * share))
    return Profile(steps, seen, timed, model="Model", config="digest", component="transformer")


def loss(row: Sequence[bool], site: int = 0) -> float:
    """What reuse costs: the squared distance of every evaluation to its anchor."""
    features, anchor, total = walk(site, len(row)), 0, 0.0
    for t, computed in enumerate(row):
        anchor = t if computed else anchor
        total += float(((features[t] - features[anchor]) ** 2).mean())
    return total


class World:
    """Renders by `loss`; prompts of the second rung lose a tenth more. Counts what it is asked.

    A fit finds slopes of 0.25, with which half is lost.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.breaks: set[int] = set()

    def evaluate(self, tasks: Sequence[Task]) -> list[dict[str, Any]]:
        return [self.one(schedule, rung) for schedule, rung in tasks]

    def one(self, schedule: Any, rung: int) -> dict[str, Any]:
        self.asked.append((schedule.digest(), rung))
        if len(self.asked) in self.breaks:
            return {"values": {"psnr": None}, "each": {}, "seconds": 0.5}
        (plan,) = schedule.components.values()
        rows = list(plan.rows["*"].values())
        if rung == FIT:
            return {"fitted": {"mean": dict.fromkeys(map(str, line(rows[0], 0.0)), 0.25), "apart": None}}
        total = sum(loss(row, i) for i, row in enumerate(rows)) * (1 + 0.1 * rung)
        total *= 0.5 if "-0.25" in str(plan.parameters) else 1.0
        quality = float(-10 * np.log10(total + 1e-6))
        return {"values": {"psnr": quality}, "each": {"psnr": [quality - 0.1, quality + 0.1]}, "seconds": 0.5}
