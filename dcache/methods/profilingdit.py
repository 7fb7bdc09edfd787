"""ProfilingDiT: blocks whose attention prefers the background are predicted, at shrinking intervals."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dcache.method import Method
from dcache.methods.coefficients import profile_of
from dcache.methods.preset import preset
from dcache.predictors import Reuse
from dcache.profile import Profile
from dcache.schedulers import Listed, Shrinking, guarded
from dcache.schedulers.planners.profilingdit import SHARE, check_depths, labelled, sites
from dcache.util.checks import check_wholes


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
    """ProfilingDiT (Ma et al. 2025): the deltas of background blocks are reused, other blocks are computed.

    Args:
        background: depths of the blocks that are predicted.
        profile: without `background`: of this model with attention statistics, or its file.
        t_max: the first interval; 6 throughout is published for Wan.
        t_min: the last interval, reached linearly; None for `t_max`. A shrinking interval needs the number of
            evaluations.
        start: first evaluation of the first interval; all before are computed.
        steps: instead of intervals: the computed evaluations from `start` on. Published for HunyuanVideo: 6,
            18, 26, 32, 38, 42, 46, 48 of 50 with `start` 6.
        share: share of the profile's blocks that are background: those that prefer the foreground least.
        branches: "separate" or "together", as in `Method`.

    Raises:
        DcacheError: there are neither blocks nor statistics, or a parameter is not valid.
    """
    made_for = ("", "")
    if background is None:
        model_profile = profile_of("profilingdit", profile, alternative="background")
        background = labelled(model_profile.attention, share)
        made_for = (model_profile.model, model_profile.config)
    blocks = check_depths("background", background)
    rule = (
        Shrinking(t_max, t_max if t_min is None else t_min, start)
        if steps is None
        else Listed(check_wholes("steps", steps, 0))
    )
    return Method(
        rule=guarded(rule, warmup=start),
        predictor=Reuse(),
        sites=tuple(sites(blocks)),
        codec="delta",
        branches=branches,
        made_for=made_for,
        fixed=True,
    )
