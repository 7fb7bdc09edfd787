"""Exact polynomial prediction on the true clock."""

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

    Ours; order 1 on log-SNR is the sweet spot of what was measured (see the docs of the default method).

    Args:
        interval: compute when `interval - 1` predictions have passed since the last compute; at least 1.
        order: degree of the polynomial; `order + 1` anchors are kept. It ramps up with the history.
        warmup: evaluations computed from the start.
        last: compute the last evaluation where the number of evaluations is known.
        sites: where, as in `dcache.sites`.
        codec: what is remembered; None is `delta` on runs of blocks and `value` elsewhere.
        clock: "step", "timestep", "sigma" or "logsnr"; None is log-SNR where the noise level is known.
        branches: whether guidance branches decide "separate"ly or "together".
    """
    return Method(
        rule=guarded(Every(interval), warmup=warmup, last=last),
        predictor=Newton(order),
        sites=site_list(sites),
        codec=codec,
        clock=clock,
        branches=branches,
    )
