"""CacheQuant's schedule: all blocks at once, computed at planned evaluations."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dcache.method import Method
from dcache.methods.coefficients import profile_of
from dcache.methods.preset import preset
from dcache.predictors import Reuse
from dcache.profile import Profile
from dcache.schedulers import Listed
from dcache.schedulers.planners import make
from dcache.util.checks import check_wholes


@preset(
    "CacheQuant, Liu et al. 2025, arXiv 2503.01323",
    sites="trunk, or bracket:0",
    families=("any",),
    needs="a profile or steps",
)
def cachequant(
    profile: str | os.PathLike[str] | Profile | None = None,
    interval: int = 5,
    steps: Sequence[int] | None = None,
    branches: str = "separate",
) -> Method:
    """CacheQuant (Liu et al. 2025): the run is cut into groups, and the first evaluation of each is computed.

    The method's corrections of the predictions belong to a schedule file: `fit_corrections` of
    `dcache.search.corrections` makes it, `dcache.enable(pipe, "FILE.schedule.json")` reads it.

    Args:
        profile: of this model, or its file; the groups are planned from it.
        interval: planned: mean length of a group, of ceil(interval / 2) to 2 interval evaluations.
        steps: the first evaluations of the groups, in place of a plan.
        branches: "separate" or "together", as in `Method`.

    Raises:
        DcacheError: there is neither profile nor steps, or they are not valid.
    """
    count, site, made_for = None, "auto", ("", "")
    if steps is None:
        model_profile = profile_of("cachequant", profile, alternative="steps")
        (plan,) = make("cachequant", model_profile, interval=interval).components.values()
        ((site, row),) = plan.rows["*"].items()
        steps, count = [t for t, computed in enumerate(row) if computed], model_profile.steps
        made_for = (model_profile.model, model_profile.config)
    return Method(
        rule=Listed(check_wholes("steps", steps, 0)),
        predictor=Reuse(),
        sites=(site,),
        codec="value",
        branches=branches,
        made_for=made_for,
        steps=count,
    )
