"""Newton: the polynomial through the last anchors at their true clock values."""

from __future__ import annotations

from dcache.method import Method, site_list
from dcache.methods.preset import preset
from dcache.predictors import Newton
from dcache.schedulers import Every, guarded


@preset("ours; Newton interpolation on the true clock", sites="any")
def newton(
    interval: int = 3,
    order: int = 1,
    warmup: int = 2,
    last: bool = True,
    sites: str | list[str] = "auto",
    codec: str | None = None,
    clock: str | None = None,
    branches: str = "separate",
) -> Method:
    """Newton interpolation through the last anchors at their true clocks: exact on polynomials of its order.

    Ours. Order 1 on log-SNR was the best of the measured settings (docs/default.md).

    Args:
        interval: compute when `interval - 1` predictions have passed since the last compute; at least 1.
        order: degree of the polynomial, through `order + 1` anchors; lower while there are fewer anchors.
        warmup: evaluations computed from the start.
        last: compute the last evaluation if the number of evaluations is known.
        sites: as in `dcache.sites`.
        codec: as in `dcache.cache.codec`; None is `delta` on runs of blocks and `value` elsewhere.
        clock: "step", "timestep", "sigma" or "logsnr"; None is log-SNR if the noise level is known.
        branches: "separate" or "together", as in `Method`.
    """
    return Method(
        rule=guarded(Every(interval), warmup=warmup, last=last),
        predictor=Newton(order),
        sites=site_list(sites),
        codec=codec,
        clock=clock,
        branches=branches,
    )
