"""Causal: of a video that is denoised block by block, only the frames that are due run."""

from __future__ import annotations

from dcache.method import Method
from dcache.methods.preset import preset
from dcache.predictors import Reuse
from dcache.probes import FrameChange, Probe
from dcache.schedulers import ChangeAbove, Every, guarded
from dcache.util.checks import check_number


@preset(
    "Ca2-VDM, Gao et al. 2024, arXiv 2411.16375; FlowCache, arXiv 2602.10825", sites="blocks of frames",
    families=("block-causal",),
)  # fmt: skip
def causal(
    threshold: float = 0.0,
    warmup: int = 1,
    max_run: int | None = 3,
    share: bool = False,
    branches: str = "separate",
) -> Method:
    """Ca2-VDM (Gao et al. 2024): frames that are finished, or not begun, are not computed; exact.

    Keys and values of a block of frames are written once, when its frames are clean. With `threshold`, blocks
    that are being denoised also reuse their outputs, each for itself (FlowCache).

    Args:
        threshold: relative L1 change of a block's latents since it was computed, below which its output is
            reused; 0 computes every block that is due, which is exact.
        warmup: evaluations computed from the start, with a threshold.
        max_run: longest run of predictions of a block, or None for no limit.
        share: keep the keys and values of finished frames for later runs that begin with the same frames and
            prompt.
        branches: "separate" or "together", as in `Method`.
    """
    check_number("threshold", threshold, 0.0)
    rule = guarded(ChangeAbove(threshold), warmup=warmup, max_run=max_run) if threshold else Every(1)
    return Method(
        rule=rule,
        predictor=Reuse(),
        sites=("frames",),
        codec="value",
        branches=branches,
        probe=Probe("frames", indicator=FrameChange) if threshold else None,
        fixed=True,
        shares=share,
    )
