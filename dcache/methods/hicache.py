"""HiCache, as published: TaylorSeer with scaled Hermite polynomials."""

from __future__ import annotations

from dcache.method import SUBLAYERS_FIRST, Method, site_list
from dcache.methods.preset import preset
from dcache.predictors import Hermite
from dcache.schedulers import Every, guarded


@preset("HiCache, Feng et al. 2025, arXiv 2508.16984", sites="sublayers", families=("sublayers",))
def hicache(  # noqa: PLR0913, PLR0917 - the published options and dcache's own
    interval: int = 6,
    order: int = 1,
    scale: float = 0.5,
    warmup: int = 3,
    last: bool = False,
    sites: str | list[str] | None = None,
    codec: str | None = "value",
    clock: str | None = "step",
    branches: str = "separate",
) -> Method:
    """HiCache (Feng et al. 2025): TaylorSeer with scaled Hermite polynomials, which grow more slowly.

    With the published scale of 0.5, order 1 follows a line with half its slope; `scale=0.5**0.5` is exact on
    lines.

    Args:
        interval: compute when `interval - 1` predictions have passed since the last compute; at least 1.
        order: highest term; `order + 1` anchors are read.
        scale: the paper's sigma, above 0 and at most 10.
        warmup: evaluations computed from the start.
        last: compute the last evaluation if the number of evaluations is known.
        sites: as in `dcache.sites`; None is all sublayers (where a model has none: its blocks).
        codec: as in `dcache.cache.codec`.
        clock: "step" as published, or "timestep", "sigma", "logsnr".
        branches: "separate" or "together", as in `Method`.
    """
    return Method(
        rule=guarded(Every(interval), warmup=warmup, last=last),
        predictor=Hermite(order, scale, since=max(warmup - 1, 0)),
        sites=site_list(SUBLAYERS_FIRST if sites is None else sites),
        codec=codec,
        clock=clock,
        branches=branches,
    )
