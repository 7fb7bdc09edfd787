"""Spectrum: the trunk's output as a Chebyshev series, computed less and less often."""

from __future__ import annotations

from dcache.method import Method, site_list
from dcache.methods.preset import preset
from dcache.predictors import Chebyshev
from dcache.schedulers import Growing, guarded
from dcache.util.checks import check_whole


@preset("Spectrum, Han et al. 2026, arXiv 2603.01623", sites="trunk or bracket")
def spectrum(  # noqa: PLR0913, PLR0917 - the published options and dcache's own
    window: float = 2,
    growth: float = 0.75,
    warmup: int = 5,
    last: bool = False,
    degree: int = 4,
    ridge: float = 0.1,
    blend: float = 0.5,
    steps: int = 50,
    anchors: int = 16,
    sites: str | list[str] = "auto",
    codec: str | None = "value",
    branches: str = "separate",
) -> Method:
    """Spectrum (Han et al. 2026): a Chebyshev series fitted to all anchors, at growing intervals.

    Args:
        window: the first interval after the warm-up, at least 1.
        growth: added to the interval at every compute after the warm-up.
        warmup: evaluations computed from the start.
        last: compute the last evaluation where the number of evaluations is known.
        degree: highest Chebyshev polynomial, the paper's M; 0 to 6.
        ridge: the paper's lambda; it draws all coefficients, the constant one too, towards 0.
        blend: share of the fit, from 0 to 1; the rest is the line through the last two anchors.
        steps: evaluations 0 to `steps` are mapped to -1 to 1; 50 is the published run.
        anchors: at most so many computed evaluations are held and fitted. 16 are all of a published run.
        sites: where, as in `dcache.sites`.
        codec: what is remembered, as in `dcache.cache.codec`.
        branches: whether guidance branches decide "separate"ly or "together".
    """
    check_whole("anchors", anchors, 1)
    return Method(
        rule=guarded(Growing(window, growth, warmup), warmup=warmup, last=last),
        predictor=Chebyshev(degree, ridge, blend, steps, anchors - 1),
        sites=site_list(sites),
        codec=codec,
        clock="step",
        branches=branches,
    )
