"""ERTACache: the whole model's residual is carried on at profiled evaluations, on adjusted noise levels."""

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
    """ERTACache (Peng et al. 2025): v - x of the last compute is reused where profiling says that it may be.

    Its rectification of what is predicted travels in a schedule file: `fit_corrections` of
    `dcache.search.corrections` makes it, `dcache.enable(pipe, "FILE.schedule.json")` reads it.

    Args:
        profile: of this model, or its file; evaluations and noise levels are planned from it.
        threshold: planned: the largest relative error that is reused.
        timesteps: planned: go less far on reused evaluations, which needs a sampler of flow matching.
        steps: the evaluations that compute, in place of a plan.
        sigmas: noise levels of a run, with or without the end's, beside steps; () leaves the sampler's.
        codec: "delta" reuses v - x, "value" v itself (published: "delta"; where x and v differ in shape only
            "value" fits).
        branches: whether guidance branches decide "separate"ly or "together".

    Raises:
        DcacheError: there are neither profile nor steps, or they make no sense.
    """
    count, levels, made_for = len(sigmas) or None, tuple(sigmas), ("", "")
    if levels and levels[-1] == 0:
        count = len(levels) - 1
    if steps is None:
        seen = observed("ertacache", profile, instead="steps")
        planned = make("ertacache", seen, threshold=threshold, timesteps=timesteps)
        ((row,),) = (its.values() for p in planned.components.values() for its in p.rows.values())
        steps, count, levels = [t for t, c in enumerate(row) if c], seen.steps, planned.sigmas
        made_for = (seen.model, seen.config)
    return Method(
        rule=Listed(tuple(steps)),
        predictor=Reuse(),
        sites=("model",),
        codec=codec,
        branches=branches,
        made_for=made_for,
        steps=count,
        sigmas=levels,
    )
