"""`dcache policy bench`: the closed loop, the same episodes for all settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dcache
from dcache.demo.policies.closed_loop import Episode, run
from dcache.demo.policies.journal import Journal
from dcache.demo.policies.policy import ChunkPolicy
from dcache.demo.policies.settings import Setting
from dcache.demo.policies.tasks import Simulator
from dcache.profile import Profile

# Seed of the first held-out episode; demonstrations have seeds below it.
HELD_OUT = 500_000

Progress = Callable[[str, int, int], object]


@contextmanager
def switched(policy: ChunkPolicy, method: Any) -> Iterator[None]:
    """Enable a method on the policy; without one nothing is touched."""
    if method is None:
        yield
        return
    with dcache.enabled(policy, method):
        yield


def bench(
    policy: ChunkPolicy,
    settings: Sequence[Setting],
    episodes: int,
    at_once: int,
    journal: Journal,
    profile: Callable[[int], Profile],
    progress: Progress = lambda _what, _done, _total: None,
) -> None:
    """Run every setting's missing episodes and log them.

    Settings take turns, batch by batch, so that a bench that is stopped early has as many episodes of each.

    Args:
        policy: the policy.
        settings: the contestants.
        episodes: held-out episodes of each.
        at_once: episodes that run side by side.
        journal: results so far; what is there is not run again.
        profile: gives the profile of runs with so many evaluations.
        progress: called with a label, and the episodes done and planned.
    """
    done, total = sum(_done(journal, setting, episodes) for setting in settings), len(settings) * episodes
    # A simulator that is not installed is said before methods are planned, which takes seconds.
    simulators: list[Simulator] = [policy.task.simulator()] if done < total else []
    methods = [setting.resolved(profile) for setting in settings]
    for first in range(0, episodes, at_once):
        seeds = range(HELD_OUT + first, HELD_OUT + min(first + at_once, episodes))
        for setting, method in zip(settings, methods, strict=True):
            missing = [seed for seed in seeds if seed not in journal.of(setting.spec)]
            progress(setting.spec, done, total)
            while len(simulators) < len(missing):
                simulators.append(policy.task.simulator())
            with switched(policy, method):
                for episode in run(policy, simulators, missing, setting.sampler, setting.warm):
                    journal.add(setting.spec, episode.result)
                    done += 1
                    progress(setting.spec, done, total)


def film(policy: ChunkPolicy, setting: Setting, method: Any, seed: int) -> Episode:
    """One held-out episode with its pictures."""
    with switched(policy, method):
        (episode,) = run(
            policy, [policy.task.simulator()], [seed], setting.sampler, setting.warm, filmed=True
        )
    return episode


def _done(journal: Journal, setting: Setting, episodes: int) -> int:
    return sum(HELD_OUT <= episode < HELD_OUT + episodes for episode in journal.of(setting.spec))
