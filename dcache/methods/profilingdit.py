"""ProfilingDiT: blocks whose attention prefers the background are predicted, at intervals that shrink."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dcache.errors import DcacheError
from dcache.method import Method
from dcache.methods.coefficients import observed
from dcache.methods.preset import preset
from dcache.predictors import Reuse
from dcache.profile import Profile
from dcache.schedulers import Listed, Shrinking, guarded
from dcache.schedulers.planners.profilingdit import SHARE, labelled, sites
from dcache.util.checks import is_whole


@preset(
    "ProfilingDiT, Ma et al. 2025, arXiv 2504.03140", sites="runs of background blocks",
    families=("transformer",), needs="a profile with attention statistics or a list of blocks",
)  # fmt: skip
def profilingdit(
    background: Sequence[int] | None = None,
    profile: str | os.PathLike[str] | Profile | None = None,
    t_max: int = 6,
    t_min: int | None = None,
    start: int = 0,
    steps: Sequence[int] | None = None,
    share: float = SHARE,
    branches: str = "separate",
) -> Method:
    """ProfilingDiT (Ma et al. 2025): background blocks' deltas are reused, others run.

    Args:
        background: depths of the blocks that are predicted.
        profile: without `background`: of this model with attention statistics, or its file.
        t_max: the interval at first; Wan's is 6 throughout.
        t_min: the interval to which it shrinks linearly; None for `t_max`. Needs the number of evaluations.
        start: where the first interval begins; everything before is computed.
        steps: instead of intervals: the evaluations from `start` on that are computed. HunyuanVideo's: 6, 18,
            26, 32, 38, 42, 46, 48 with `start` 6 (of 50).
        share: of the profile's blocks that are background: those that prefer the foreground least.
        branches: whether guidance branches decide "separate"ly or "together".

    Raises:
        DcacheError: there are neither blocks nor statistics, or a parameter makes no sense.
    """
    made_for = ("", "")
    if background is None:
        seen = observed("profilingdit", profile, instead="background")
        background, made_for = labelled(seen.attention, share), (seen.model, seen.config)
    depths = list(background)
    if not depths or not all(is_whole(i) and i >= 0 for i in depths):
        raise DcacheError(f"background must be depths of blocks, such as [0, 2, 3], got {background!r}")
    rule = (
        Shrinking(t_max, t_max if t_min is None else t_min, start) if steps is None else Listed(tuple(steps))
    )
    return Method(
        rule=guarded(rule, warmup=start),
        predictor=Reuse(),
        sites=tuple(sites(depths)),
        codec="delta",
        branches=branches,
        made_for=made_for,
        fixed=True,
    )
