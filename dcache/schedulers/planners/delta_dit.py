"""Delta-DiT (Chen et al. 2024): rear blocks early, front blocks late, the boundary from what was observed.

The paper chooses the boundary by looking at which blocks matter in which stage, and publishes no tables. Our
reading: the boundary is where predictions of the rear before it and of the front from it on do the least harm
in sum. Harm is the error of the final pictures where the profile has the importance of both runs, and else
how far the blocks' deltas have moved since they were last computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from dcache.errors import DcacheError
from dcache.profile import Profile
from dcache.schedule import Schedule
from dcache.schedulers import DeltaDitStages, EveryNthIndex, guarded
from dcache.schedulers.combine import share_of
from dcache.schedulers.planners.registry import scheduled
from dcache.schedulers.simulate import simulate
from dcache.sites.site import Site
from dcache.sites.structure import split_overlapping_runs
from dcache.util.checks import check_share, check_whole

SHARE = 0.75
Rows = Mapping[Site, tuple[int, ...]]
Harm = Callable[[int, Rows], float]


def plan(
    profile: Profile,
    interval: int = 2,
    blocks: float = SHARE,
    boundary: int | None = None,
    warmup: int = 1,
    last: bool = False,
) -> Schedule:
    """The rows that `methods.delta_dit` makes, one for each part of the two overlapping runs.

    Args:
        profile: with every block.
        interval: every evaluation whose index is a multiple of it is computed.
        blocks: of the front and of the rear run, or their share of the depth (a float).
        boundary: the evaluation from which on the front is reused; None for the best.
        warmup: evaluations computed from the start.
        last: compute the last evaluation.

    Raises:
        DcacheError: the profile has no blocks, or a parameter makes no sense.
    """
    check_share("blocks", blocks, 1)
    depth = _depth(profile)
    size = share_of(blocks, depth)
    if not 1 <= size <= depth:
        raise DcacheError(f"blocks={blocks!r} is {size} blocks, and the profile has {depth}")
    front, rear = _run(0, size - 1), _run(depth - size, depth - 1)
    atoms = sorted(split_overlapping_runs([front, rear]), key=lambda site: site.first)

    def rows_of(stage: int) -> Rows:
        rule = guarded(EveryNthIndex(interval), DeltaDitStages(stage, size), warmup=warmup, last=last)
        return {atom: simulate(rule, profile.steps, atom, depth=depth) for atom in atoms}

    if boundary is None:
        harm = _on_pictures(profile, front.name, rear.name) or _by_tables(profile, atoms)
        boundary = min(range(profile.steps + 1), key=lambda stage: harm(stage, rows_of(stage)))
    check_whole("boundary", boundary, 0)
    rows = {atom.name: computed for atom, computed in rows_of(boundary).items()}
    return scheduled(profile, "delta_dit", rows, codec="delta")


def levels(profile: Profile) -> Iterable[dict[str, Any]]:
    """Intervals with the published share of blocks and with all but one, by the share that is computed."""
    depth = _depth(profile)
    sizes = sorted({max(1, share_of(SHARE, depth)), max(1, depth - 1)})
    pairs = [(interval, size) for interval in range(1, profile.steps + 1) for size in sizes]
    share = {(n, size): 1.0 - size / depth * (1.0 - 1.0 / n) for n, size in pairs}
    return ({"interval": n, "blocks": size} for n, size in sorted(pairs, key=lambda p: (-share[p], p[1])))


def _on_pictures(profile: Profile, front: str, rear: str) -> Harm | None:
    """By the importance of both runs; None where one was not looked at in all evaluations but the first."""
    if profile.importance is None or not {front, rear} <= set(profile.important):
        return None
    early, late = (profile.importance[profile.important.index(run), 1:] for run in (rear, front))
    if not np.isfinite([early, late]).all():
        return None

    def harm(stage: int, rows: Rows) -> float:
        whole = set.intersection(*map(set, rows.values()))
        return sum(
            float((early if t < stage else late)[t - 1]) for t in range(1, profile.steps) if t not in whole
        )

    return harm


def _by_tables(profile: Profile, atoms: list[Site]) -> Harm:
    """By the mean |d_a - d_t| of every block's delta, `a` being where it was last computed, summed."""
    blocks = {atom: [_block(i) for i in range(atom.first, atom.last + 1)] for atom in atoms}
    moved = {
        atom: np.sum([profile.tables(one, "delta").distance for one in its], axis=0)
        for atom, its in blocks.items()
    }

    def harm(_: int, rows: Rows) -> float:
        total = 0.0
        for atom, computed in rows.items():
            last = np.searchsorted(computed, np.arange(profile.steps), side="right") - 1
            total += float(moved[atom][np.asarray(computed)[last], np.arange(profile.steps)].sum())
        return total

    return harm


def _run(first: int, last: int) -> Site:
    return Site(f"run:{first}-{last}", "run", first, last)


def _block(depth: int) -> str:
    return f"block:{depth}"


def _depth(profile: Profile) -> int:
    depth = len(profile.of_kind("block"))
    if not depth or any(_block(i) not in profile.sites for i in range(depth)):
        raise DcacheError(
            f"delta_dit plans for runs of blocks and needs every block observed: the profile has "
            f"{', '.join(profile.sites)}. Observe with the site 'block'"
        )
    return depth
