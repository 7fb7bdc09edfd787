"""Delta-DiT: rear blocks early, front blocks late."""

from __future__ import annotations

from dcache.method import Method
from dcache.methods.preset import preset
from dcache.predictors import Reuse
from dcache.schedulers import DeltaDitStages, EveryNthIndex, guarded
from dcache.util.checks import check_share


@preset(
    "Delta-DiT, Chen et al. 2024, arXiv 2406.01125", sites="front and rear runs", families=("transformer",)
)
def delta_dit(
    interval: int = 2,
    blocks: float = 0.75,
    boundary: float = 0.24,
    warmup: int = 1,
    last: bool = False,
    branches: str = "separate",
) -> Method:
    """Delta-DiT (Chen et al. 2024): early the rear blocks' delta is reused, late the front blocks'.

    The front blocks matter for the outline, which early steps make; the rear blocks for the details, which
    late steps make. Every `interval`-th evaluation computes all blocks. The front and the rear run overlap,
    so they are cached as three disjoint runs, whose deltas add up. Defaults are the shares of the published
    settings (21 of 28 blocks, 60 of 250 steps); no official code exists.

    Args:
        interval: evaluations whose index is a multiple of it are computed.
        blocks: number of blocks of the front and of the rear run, or their share of the depth (a float).
        boundary: first evaluation at which the front is reused, or a share of the run (a float).
        warmup: evaluations computed from the start.
        last: compute the last evaluation if the number of evaluations is known.
        branches: "separate" or "together", as in `Method`.
    """
    check_share("blocks", blocks, 1)
    check_share("boundary", boundary, 0)
    size = f"{100 * blocks:g}%" if isinstance(blocks, float) else str(blocks)
    return Method(
        rule=guarded(EveryNthIndex(interval), DeltaDitStages(boundary, blocks), warmup=warmup, last=last),
        predictor=Reuse(),
        sites=(f"front:{size}", f"rear:{size}"),
        codec="delta",
        branches=branches,
        fixed=True,
    )
