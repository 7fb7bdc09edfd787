"""Delta-DiT (Chen et al. 2024): rear blocks early, front blocks late, with the boundary from a profile.

The paper chooses the boundary by which blocks matter in which stage, and publishes no tables. Our reading:
the boundary with the least sum of errors, of the rear run's predictions before it and the front run's from it
on. An error is that of the final pictures if the profile has the importance of both runs; else the change of
the blocks' deltas since their last compute.
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
from dcache.sites.overlap import split_overlapping_runs
from dcache.sites.site import Site
from dcache.util.checks import check_share, check_whole

SHARE = 0.75
Rows = Mapping[Site, tuple[int, ...]]
# Boundary and rows -> sum of errors.
Error = Callable[[int, Rows], float]


def plan(
    profile: Profile,
    interval: int = 2,
    blocks: float = SHARE,
    boundary: int | None = None,
    warmup: int = 1,
    last: bool = False,
) -> Schedule:
    """The rows of `methods.delta_dit`, one for each disjoint run of the overlapping front and rear run.

    Args:
        profile: with every block.
        interval: evaluations whose index is a multiple of it are computed.
        blocks: number of blocks of the front and of the rear run, or their share of the depth (a float).
        boundary: first evaluation at which the front is reused; None for the best.
        warmup: evaluations computed from the start.
        last: compute the last evaluation.

    Raises:
        DcacheError: the profile has no blocks, or a parameter is not valid.
    """
    check_share("blocks", blocks, 1)
    depth = _depth(profile)
    size = share_of(blocks, depth)
    if not 1 <= size <= depth:
        raise DcacheError(f"blocks={blocks!r} is {size} blocks, and the profile has {depth}")
    front, rear = _run(0, size - 1), _run(depth - size, depth - 1)
    runs = sorted(split_overlapping_runs([front, rear]), key=lambda site: site.first)

    def rows_of(stage: int) -> Rows:
        rule = guarded(EveryNthIndex(interval), DeltaDitStages(stage, size), warmup=warmup, last=last)
        return {run: simulate(rule, profile.steps, run, depth=depth) for run in runs}

    if boundary is None:
        error = _picture_error(profile, front.name, rear.name) or _delta_error(profile, runs)
        boundary = min(range(profile.steps + 1), key=lambda stage: error(stage, rows_of(stage)))
    check_whole("boundary", boundary, 0)
    rows = {run.name: computed for run, computed in rows_of(boundary).items()}
    return scheduled(profile, "delta_dit", rows, codec="delta")


def levels(profile: Profile) -> Iterable[dict[str, Any]]:
    """Intervals with the published share of blocks and with all blocks but one, ordered by computed share."""
    depth = _depth(profile)
    sizes = sorted({max(1, share_of(SHARE, depth)), max(1, depth - 1)})
    pairs = [(interval, size) for interval in range(1, profile.steps + 1) for size in sizes]
    share = {(n, size): 1.0 - size / depth * (1.0 - 1.0 / n) for n, size in pairs}
    return ({"interval": n, "blocks": size} for n, size in sorted(pairs, key=lambda p: (-share[p], p[1])))


def _picture_error(profile: Profile, front: str, rear: str) -> Error | None:
    """Error of the final pictures, from the importance of both runs; None if the profile has gaps in it."""
    if profile.importance is None or not {front, rear} <= set(profile.important):
        return None
    early, late = (profile.importance[profile.important.index(run), 1:] for run in (rear, front))
    if not np.isfinite([early, late]).all():
        return None

    def error(stage: int, rows: Rows) -> float:
        full = set.intersection(*map(set, rows.values()))
        return sum(
            float((early if t < stage else late)[t - 1]) for t in range(1, profile.steps) if t not in full
        )

    return error


def _delta_error(profile: Profile, runs: list[Site]) -> Error:
    """Sum over blocks of mean |d_a - d_t|, where d is the block's delta and a its last compute before t."""
    blocks = {run: [_block(i) for i in range(run.first, run.last + 1)] for run in runs}
    distance = {
        run: np.sum([profile.tables(block, "delta").distance for block in names], axis=0)
        for run, names in blocks.items()
    }

    def error(_: int, rows: Rows) -> float:
        total = 0.0
        for run, computed in rows.items():
            last = np.searchsorted(computed, np.arange(profile.steps), side="right") - 1
            total += float(distance[run][np.asarray(computed)[last], np.arange(profile.steps)].sum())
        return total

    return error


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
