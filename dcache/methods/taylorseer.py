"""TaylorSeer, as published: forecasts by a Taylor series of backward differences."""

from __future__ import annotations

from dcache.method import SUBLAYERS_FIRST, Method, site_list
from dcache.methods.preset import preset
from dcache.predictors import Taylor
from dcache.schedulers import Every, guarded


@preset("TaylorSeer, Liu et al. 2025, arXiv 2503.06923", sites="sublayers or trunk", families=("sublayers",))
def taylorseer(  # noqa: PLR0913, PLR0917 - the published options and dcache's own
    interval: int = 6,
    order: int = 1,
    warmup: int = 3,
    last: bool = False,
    lite: bool = False,
    sites: str | list[str] | None = None,
    codec: str | None = "value",
    clock: str | None = "step",
    branches: str = "separate",
) -> Method:
    """TaylorSeer (Liu et al. 2025, "From Reusing to Forecasting"): sublayers are forecast by Taylor series.

    Defaults are those of the reference code for FLUX: N = 6, order 1, the first three of 50 steps computed,
    which computes steps 0, 1, 2, 8, 14, ..., 44. The published differences are exact on straight lines only;
    see `newton`.

    Args:
        interval: compute when `interval - 1` predictions have passed since the last compute; at least 1.
        order: highest term of the series, over `order + 1` anchors; lower while there are fewer anchors.
        warmup: evaluations computed from the start ("first_enhance").
        last: compute the last evaluation if the number of evaluations is known.
        lite: cache only the output of the last block (`order + 1` tensors for the whole model).
        sites: as in `dcache.sites`; None is all sublayers (where a model has none: its blocks), or the
            trunk if `lite`.
        codec: as in `dcache.cache.codec`.
        clock: "step" as published, or "timestep", "sigma", "logsnr".
        branches: "separate" or "together", as in `Method`.
    """
    where = sites if sites is not None else ("trunk" if lite else SUBLAYERS_FIRST)
    return Method(
        rule=guarded(Every(interval), warmup=warmup, last=last),
        predictor=Taylor(order, since=max(warmup - 1, 0)),
        sites=site_list(where),
        codec=codec,
        clock=clock,
        branches=branches,
    )
