"""BAC: every sublayer is computed at its listed evaluations, from a table or planned from a profile."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from dcache.errors import DcacheError
from dcache.method import Method
from dcache.methods.coefficients import profile_of, table_in
from dcache.methods.preset import preset
from dcache.predictors import Reuse
from dcache.profile import Profile
from dcache.schedulers import BySite, Listed
from dcache.schedulers.planners import make


@preset(
    "BAC, Ji et al. 2025, arXiv 2506.13456", sites="attn, cross_attn, mlp", families=("sublayers",),
    needs="a profile or a table",
)  # fmt: skip
def bac(
    table: str | os.PathLike[str] | Mapping[str, Sequence[int]] | None = None,
    profile: str | os.PathLike[str] | Profile | None = None,
    computes: int = 10,
    union: int = 0,
    metric: str = "cosine",
    steps: int | None = None,
    branches: str = "separate",
) -> Method:
    """BAC (Ji et al. 2025): every sublayer is computed where reuse would be least similar to its output.

    Args:
        table: site ("attn:0", "mlp:3", ...) -> its computed evaluations; or a JSON file with that, or with it
            under "bac" and "table". `dcache import` reads the published files.
        profile: of this model, or its file; used without a table, to plan one.
        computes: planned computes of each sublayer.
        union: planned: number of feed-forward sublayers whose computes are united; 0 for none.
        metric: planned: "cosine", "l1" or "l2".
        steps: evaluations of the run for which the table is made; None for any. With a profile: the
            profile's.
        branches: "separate" or "together", as in `Method`.

    Raises:
        DcacheError: there is neither table nor profile, or the table is not valid.
    """
    made_for = ("", "")
    if table is None:
        model_profile = profile_of("bac", profile, alternative="table")
        schedule = make("bac", model_profile, computes=computes, union=union, metric=metric)
        (plan,) = schedule.components.values()
        table = {site: [t for t, c in enumerate(row) if c] for site, row in plan.rows["*"].items()}
        steps, made_for = model_profile.steps, (model_profile.model, model_profile.config)
    rows = table_in("bac", table, lambda site: ":" in site)
    lists = isinstance(rows, Mapping) and all(isinstance(row, list | tuple) for row in rows.values())
    if not lists or not rows or not all(type(t) is int and t >= 0 for row in rows.values() for t in row):
        raise DcacheError(f"bac's table needs a list of evaluations for each site, got {str(rows)[:60]}")
    rules = {site: Listed(tuple(row)) for site, row in rows.items()}
    if steps is not None and max(max(rule.steps, default=0) for rule in rules.values()) >= steps:
        raise DcacheError(f"bac's table lists evaluations beyond the {steps} of the run")
    return Method(
        rule=BySite(rules),
        predictor=Reuse(),
        sites=tuple(rules),
        codec="value",
        branches=branches,
        made_for=made_for,
        fixed=True,
        steps=steps,
    )
