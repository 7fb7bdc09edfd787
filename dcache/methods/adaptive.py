"""Adaptive: the first block's change decides where to compute, the guided line predicts."""

from __future__ import annotations

from dcache.errors import DcacheError
from dcache.method import Method, site_list
from dcache.methods.preset import preset
from dcache.predictors.guided_line import GuidedLine
from dcache.probes import Probe
from dcache.schedulers import ChangeAbove, guarded
from dcache.schedulers.steered import Steered


@preset("ours; docs/methods/adaptive.md", sites="all blocks but the first", families=("transformer",))
def adaptive(  # noqa: PLR0913, PLR0917 - as many as the method has options
    share: float | None = None,
    threshold: float | None = None,
    max_run: int | None = None,
    warmup: int = 2,
    last: bool = False,
    difference: float = 0.25,
    sites: str | list[str] = "auto",
    codec: str | None = "delta",
    clock: str | None = None,
    branches: str = "separate",
) -> Method:
    """Adaptive: compute where the first block's change reaches a threshold, predict along the guided line.

    FBCache's probe with a line through the last two anchors in place of reuse. In a guided batch the mean of
    the halves follows the line and their difference a share of it. Give `share` for a fixed number of
    computes whose places adapt, or `threshold` for a fixed threshold. One sync per decision.

    Args:
        share: computed share of the evaluations; the threshold is steered to it. Without share and threshold
            0.45 is taken.
        threshold: relative L1 change of the first block's residual; at or above it everything is computed. 0
            computes everything. With `share` it is where the steering begins.
        max_run: longest run of predictions, or None for no limit.
        warmup: evaluations computed from the start.
        last: compute the last evaluation if the number of evaluations is known.
        difference: share of the line's slope for the difference of the halves of a guided batch.
        sites: as in `dcache.sites`; "auto" is all blocks but the first.
        codec: as in `dcache.cache.codec`.
        clock: "step", "timestep", "sigma" or "logsnr"; None is log-SNR if the noise level is known.
        branches: "separate" or "together", as in `Method`.
    """
    if share is None and threshold is None:
        share = 0.45
    if share is not None and max_run is not None:
        raise DcacheError("adaptive takes share= or max_run=, not both: the share sets how often it computes")
    rule = ChangeAbove(threshold or 0.0) if share is None else Steered(share, threshold)
    return Method(
        rule=guarded(rule, warmup=warmup, last=last, max_run=max_run),
        predictor=GuidedLine(difference),
        sites=site_list(sites),
        codec=codec,
        clock=clock,
        branches=branches,
        probe=Probe(),
    )
