"""ERTACache: the model's residual is reused at profiled evaluations, with adjusted noise levels."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dcache.errors import DcacheError
from dcache.method import Method
from dcache.methods.coefficients import profile_of
from dcache.methods.preset import preset
from dcache.predictors import Reuse
from dcache.profile import Profile
from dcache.schedulers import Listed
from dcache.schedulers.planners import make
from dcache.util.checks import check_wholes, is_number
from dcache.util.text import short


@preset("ERTACache, Peng et al. 2025, arXiv 2508.21091", sites="model", needs="a profile or steps")
def ertacache(
    profile: str | os.PathLike[str] | Profile | None = None,
    threshold: float = 0.1,
    timesteps: bool = True,
    steps: Sequence[int] | None = None,
    sigmas: Sequence[float] = (),
    codec: str = "delta",
    branches: str = "separate",
) -> Method:
    """ERTACache (Peng et al. 2025): v - x of the last compute is reused where a profile shows a small error.

    The method's rectification of the predictions belongs to a schedule file: `fit_corrections` of
    `dcache.search.corrections` makes it, `dcache.enable(pipe, "FILE.schedule.json")` reads it.

    Args:
        profile: of this model, or its file; evaluations and noise levels are planned from it.
        threshold: planned: relative error below which v - x is reused.
        timesteps: planned: shorten the steps of reused evaluations; needs a sampler of flow matching.
        steps: the computed evaluations, in place of a plan.
        sigmas: noise levels of a run, with or without the final one, for use with `steps`; () keeps the
            sampler's.
        codec: "delta" reuses v - x as published, "value" reuses v; only "value" fits if x and v differ in
            shape.
        branches: "separate" or "together", as in `Method`.

    Raises:
        DcacheError: there is neither profile nor steps, or they are not valid.
    """
    if not isinstance(sigmas, list | tuple) or not all(map(is_number, sigmas)):
        raise DcacheError(f"sigmas must be a list of numbers, or () for the sampler's, got {short(sigmas)}")
    count, levels, made_for = len(sigmas) or None, tuple(sigmas), ("", "")
    if levels and levels[-1] == 0:
        count = len(levels) - 1
    if steps is None:
        model_profile = profile_of("ertacache", profile, alternative="steps")
        schedule = make("ertacache", model_profile, threshold=threshold, timesteps=timesteps)
        (plan,) = schedule.components.values()
        (row,) = plan.rows["*"].values()
        steps, count = [t for t, computed in enumerate(row) if computed], model_profile.steps
        levels, made_for = schedule.sigmas, (model_profile.model, model_profile.config)
    return Method(
        rule=Listed(check_wholes("steps", steps, 0)),
        predictor=Reuse(),
        sites=("model",),
        codec=codec,
        branches=branches,
        made_for=made_for,
        steps=count,
        sigmas=levels,
    )
