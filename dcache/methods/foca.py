"""FoCa, as published: forecasts by a BDF2 predictor and a Heun corrector."""

from __future__ import annotations

from dcache.method import SUBLAYERS_FIRST, Method, site_list
from dcache.methods.preset import preset
from dcache.predictors import Foca
from dcache.schedulers import Every, guarded


@preset("FoCa, Zheng et al. 2025, arXiv 2508.16211", sites="sublayers", families=("sublayers",))
def foca(
    interval: int = 6,
    warmup: int = 3,
    last: bool = False,
    sites: str | list[str] | None = None,
    codec: str | None = "value",
    branches: str = "separate",
) -> Method:
    """FoCa (Zheng et al. 2025): features as an ODE's trajectory, forecast by BDF2 and calibrated by Heun.

    The recursion reads its last forecast, so it stores one tensor more per site than other predictors of
    order 1. It assumes steps of one: with anchors further apart it is not exact on lines
    (docs/methods/foca.md).

    Args:
        interval: compute when `interval - 1` predictions have passed since the last compute; at least 1.
        warmup: evaluations computed from the start.
        last: compute the last evaluation if the number of evaluations is known.
        sites: as in `dcache.sites`; None is all sublayers (where a model has none: its blocks).
        codec: as in `dcache.cache.codec`.
        branches: "separate" or "together", as in `Method`.
    """
    return Method(
        rule=guarded(Every(interval), warmup=warmup, last=last),
        predictor=Foca(),
        sites=site_list(SUBLAYERS_FIRST if sites is None else sites),
        codec=codec,
        clock="step",
        branches=branches,
    )
