"""Tuned: observes its first call, and plans those that follow from it."""

from __future__ import annotations

from dcache.errors import DcacheError
from dcache.method import Aim, Method, site_list
from dcache.methods.preset import preset
from dcache.predictors.guided_line import GuidedLine
from dcache.schedulers.planned import Observing
from dcache.util.checks import check_number


@preset("ours; docs/methods/tuned.md", sites="trunk or bracket")
def tuned(
    speedup: float | None = None, quality: float | None = None, sites: str | list[str] = "auto"
) -> Method:
    """Tuned: the first call is computed in full and observed, the calls that follow it are planned from it.

    Give `speedup` or `quality`; without both, a speedup of 2 is planned. What was observed is kept in a cache
    folder for later processes (docs/methods/tuned.md).

    Args:
        speedup: floating-point operations of the uncached call over those of a planned one, above 1.
        quality: estimated PSNR in dB of a planned call to the uncached one; only without guidance.
        sites: as in `dcache.sites`, one of "auto", "trunk" and "model".
    """
    if speedup is not None and quality is not None:
        raise DcacheError("tuned takes speedup= or quality=, not both: either decides how much is computed")
    if quality is None:
        speedup = 2.0 if speedup is None else check_number("speedup", speedup, 1.0)
    else:
        check_number("quality", quality, 0.0)
    if speedup == 1.0:
        raise DcacheError("speedup must be above 1, got 1: without caching it is 1")
    return Method(
        # The predictor is replaced with the first plan; this one has the engine look for halves of a batch.
        rule=Observing(),
        predictor=GuidedLine(),
        sites=site_list(sites),
        aim=Aim(speedup, quality),
    )
