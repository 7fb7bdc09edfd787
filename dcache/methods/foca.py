"""FoCa, as published."""

from __future__ import annotations

from dcache.method import Method, site_list
from dcache.methods.preset import preset
from dcache.predictors import Foca
from dcache.schedulers import Every, guarded


@preset("FoCa, Zheng et al. 2025, arXiv 2508.16211", sites="sublayers", families=("sublayers",))
def foca(
    interval: int = 6,
    warmup: int = 3,
    last: bool = False,
    sites: str | list[str] = "sublayers",
    codec: str | None = "value",
    branches: str = "separate",
) -> Method:
    """FoCa (Zheng et al. 2025): features as an ODE's trajectory, forecast by BDF2 and calibrated by Heun.

    The recursion reads its own last forecast, so one tensor per site more is held than with order 1. It takes
    steps of one: with anchors further apart it is not exact on lines (see the method's page).

    Args:
        interval: compute when `interval - 1` predictions have passed since the last compute; at least 1.
        warmup: evaluations computed from the start.
        last: compute the last evaluation where the number of evaluations is known.
        sites: where, as in `dcache.sites`.
        codec: what is remembered, as in `dcache.cache.codec`.
        branches: whether guidance branches decide "separate"ly or "together".
    """
    return Method(
        rule=guarded(Every(interval), warmup=warmup, last=last),
        predictor=Foca(),
        sites=site_list(sites),
        codec=codec,
        clock="step",
        branches=branches,
    )
