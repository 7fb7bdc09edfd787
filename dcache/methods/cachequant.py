"""CacheQuant's schedule: all blocks at once, computed at planned evaluations."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dcache.method import Method
from dcache.methods.coefficients import observed
from dcache.methods.preset import preset
from dcache.predictors import Reuse
from dcache.profile import Profile
from dcache.schedulers import Listed
from dcache.schedulers.planners import make


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
    """CacheQuant (Liu et al. 2025): the run is cut into groups, each stands on what it began with.

    Its corrections of what is predicted travel in a schedule file: `fit_corrections` of
    `dcache.search.corrections` makes it, `dcache.enable(pipe, "FILE.schedule.json")` reads it.

    Args:
        profile: of this model, or its file; the groups are planned from it.
        interval: planned: mean length of a group, of ceil(interval / 2) to 2 interval evaluations.
        steps: the evaluations that begin a group, in place of a plan.
        branches: whether guidance branches decide "separate"ly or "together".

    Raises:
        DcacheError: there are neither profile nor steps, or they make no sense.
    """
    count, site, made_for = None, "auto", ("", "")
    if steps is None:
        seen = observed("cachequant", profile, instead="steps")
        (plan,) = make("cachequant", seen, interval=interval).components.values()
        ((site, row),) = plan.rows["*"].items()
        steps, count = [t for t, computed in enumerate(row) if computed], seen.steps
        made_for = (seen.model, seen.config)
    return Method(
        rule=Listed(tuple(steps)),
        predictor=Reuse(),
        sites=(site,),
        codec="value",
        branches=branches,
        made_for=made_for,
        steps=count,
    )
