"""Yume: blocks that the output misses least are predicted, all others are computed."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dcache.errors import DcacheError
from dcache.method import Method
from dcache.methods.coefficients import profile_of
from dcache.methods.preset import preset
from dcache.predictors import Reuse
from dcache.profile import Profile
from dcache.schedulers import Every, guarded
from dcache.schedulers.planners.profilingdit import check_depths, least, sites
from dcache.util.checks import check_number


@preset(
    "Yume, Mao et al. 2025, arXiv 2507.17744", sites="runs of blocks",
    families=("transformer",), needs="a profile with removal errors or a list of blocks",
)  # fmt: skip
def yume(
    blocks: Sequence[int] | None = None,
    profile: str | os.PathLike[str] | Profile | None = None,
    share: float = 0.25,
    interval: int = 4,
    warmup: int = 1,
    last: bool = False,
    branches: str = "separate",
) -> Method:
    """Yume (Mao et al. 2025): the deltas of the least important blocks are reused, other blocks are computed.

    Args:
        blocks: depths of the blocks that are predicted.
        profile: without `blocks`: of this model with removal errors, or its file.
        share: share of the profile's blocks that are predicted: those without which the output changes least;
            10 of 40 are published.
        interval: compute the blocks when `interval - 1` predictions have passed since; at least 1.
        warmup: evaluations computed from the start.
        last: compute the last evaluation if the number of evaluations is known.
        branches: "separate" or "together", as in `Method`.

    Raises:
        DcacheError: there are neither blocks nor removal errors, or a parameter is not valid.
    """
    made_for = ("", "")
    if blocks is None:
        model_profile = profile_of("yume", profile, alternative="blocks")
        blocks = _least(model_profile, share)
        made_for = (model_profile.model, model_profile.config)
    depths = check_depths("blocks", blocks)
    return Method(
        rule=guarded(Every(interval), warmup=warmup, last=last),
        predictor=Reuse(),
        sites=tuple(sites(depths)),
        codec="delta",
        branches=branches,
        made_for=made_for,
        fixed=True,
    )


def _least(profile: Profile, share: float) -> list[int]:
    """Depths of the blocks with the least removal errors."""
    if check_number("share", share, 0.0, 1.0) == 0:
        raise DcacheError("share must be above 0, with which some block is predicted, got 0")
    if not profile.removal:
        raise DcacheError(
            "yume plans from removal errors, and this profile has none. Measure them: `dcache calibrate PIPE "
            "--removal --out FILE.safetensors` (dcache.search.removal.with_removal)"
        )
    return least(profile.removal, share)
