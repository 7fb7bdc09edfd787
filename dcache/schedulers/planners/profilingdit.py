"""ProfilingDiT (Ma et al. 2025): blocks whose attention prefers the background are predicted, in runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dcache.errors import DcacheError
from dcache.profile import Profile
from dcache.schedule import Schedule
from dcache.schedulers.planners.algorithms import maximal_runs
from dcache.schedulers.planners.registry import scheduled
from dcache.schedulers.shrinking import Shrinking, shrinking
from dcache.schedulers.simulate import simulate
from dcache.sites.names import span_of
from dcache.sites.site import Site
from dcache.util.checks import check_number, is_whole
from dcache.util.text import short

SHARE = 0.65


def plan(
    profile: Profile,
    t_max: int = 6,
    t_min: int = 6,
    start: int = 0,
    share: float = SHARE,
    tau: float | None = None,
) -> Schedule:
    """The runs of background blocks, computed at intervals that shrink from `t_max` to `t_min`.

    Args:
        profile: with attention statistics.
        t_max: the first interval.
        t_min: the interval at the end of the run. The paper's HunyuanVideo list goes from 12 to 2 with
            `start` 6, its Wan setting is 6 throughout.
        start: first evaluation of the first interval; all before are computed.
        share: share of the blocks that are background, those whose attention prefers the foreground least
            (60 % and 70 % in the published lists).
        tau: instead of `share`: blocks with R below it are background.

    Raises:
        DcacheError: the profile has no attention statistics, or no block is background.
    """
    background = labelled(profile.attention, share, tau)
    if not background:
        raise DcacheError(
            f"no block has R below tau={tau:g}: the least is {min(profile.attention.values()):g}"
        )
    rule = Shrinking(t_max, t_min, start)
    rows = {site: simulate(rule, profile.steps, Site(site, "run")) for site in sites(background)}
    return scheduled(profile, "profilingdit", rows, codec="delta")


def labelled(attention: Mapping[str, float], share: float = SHARE, tau: float | None = None) -> list[int]:
    """Depths of the background blocks, in order.

    Args:
        attention: `block:N` -> R, the share of the foreground's tokens that its attention prefers.
        share: share of the blocks, those with the least R; at least one block.
        tau: if not None, all blocks with R below it instead.

    Raises:
        DcacheError: there are no statistics, or a parameter is not valid.
    """
    if not attention:
        raise DcacheError(
            "profilingdit plans from attention statistics, and this profile has none. Observe them: `dcache "
            "calibrate PIPE --method profilingdit --out FILE.safetensors` (dcache.search.attention."
            "with_attention)"
        )
    depth_of = {name: span_of(name).first[0] for name in attention if re.fullmatch(r"block:\d+", name)}
    if len(depth_of) < len(attention):
        raise DcacheError(f"attention statistics are of blocks ('block:3'), got {', '.join(attention)}")
    if tau is not None:
        check_number("tau", tau, 0.0)
        return sorted(depth_of[name] for name, r in attention.items() if r < tau)
    check_number("share", share, 0.0)
    if share > 1:
        raise DcacheError(f"share must be a number of at most 1, got {share!r}")
    return least(attention, share)


def least(values: Mapping[str, float], share: float) -> list[int]:
    """Depths of this share of the blocks, those with the least values, in order; at least one block.

    Args:
        values: `block:N` -> value.
        share: from 0 to 1.
    """
    depth_of = {name: span_of(name).first[0] for name in values}
    ascending = sorted(values, key=lambda name: (values[name], depth_of[name]))
    return sorted(depth_of[name] for name in ascending[: max(1, round(share * len(ascending)))])


def check_depths(name: str, blocks: Any) -> list[int]:
    """Check a list of blocks; returns it.

    Args:
        name: of the option, for the message.
        blocks: what was given.

    Raises:
        DcacheError: it is no list of depths, or it is empty.
    """
    listed = isinstance(blocks, Sequence) and not isinstance(blocks, str | bytes)
    if not listed or not blocks or not all(is_whole(i) and i >= 0 for i in blocks):
        raise DcacheError(f"{name} must be depths of blocks, such as [0, 2, 3], got {short(blocks)}")
    return list(blocks)


def sites(blocks: Sequence[int]) -> list[str]:
    """The maximal runs of adjacent blocks, as names of sites."""
    labels = [i in set(blocks) for i in range(max(blocks) + 1)]
    return [f"block:{a}" if a == b else f"run:{a}-{b}" for a, b in maximal_runs(labels)]


def levels(profile: Profile) -> Iterable[dict[str, Any]]:
    """Intervals that shrink to a third, for increasing shares of blocks, ordered by computed share."""
    depth = max(len(profile.attention), 1)
    settings = [
        {"t_max": longest, "t_min": -(-longest // 3), "share": share}
        for share in (SHARE, 0.8, 1.0)
        for longest in range(1, profile.steps + 1)
    ]

    def computed(setting: dict[str, Any]) -> float:
        anchors = shrinking(profile.steps, setting["t_max"], setting["t_min"])
        predicted = 1.0 - len(anchors) / profile.steps
        return 1.0 - predicted * max(1, round(setting["share"] * depth)) / depth

    return sorted(settings, key=lambda setting: (-computed(setting), setting["share"]))
