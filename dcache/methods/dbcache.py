"""DBCache: the front blocks decide, the middle blocks are predicted, the back blocks are computed."""

from __future__ import annotations

from dcache.method import Method
from dcache.methods.preset import preset
from dcache.predictors import Predictor, Reuse, Taylor
from dcache.probes import Probe
from dcache.schedulers import ChangeAbove, guarded
from dcache.util.checks import check_whole


@preset("DBCache, cache-dit 2025", sites="all blocks but the front and the back", families=("transformer",))
def dbcache(
    front: int = 8,
    back: int = 0,
    threshold: float = 0.08,
    warmup: int = 8,
    max_run: int | None = None,
    order: int = 0,
    last: bool = False,
    branches: str = "separate",
) -> Method:
    """DBCache (cache-dit 2025): First Block Cache with more front blocks and with back blocks.

    The probe is output minus input of the front blocks, compared with that of the last computed evaluation by
    relative L1. The blocks between front and back are predicted. `front=1, back=0` is `fbcache`. One sync per
    decision.

    Args:
        front: leading blocks, always computed ("Fn"); the model needs more blocks than `front + back`.
        back: trailing blocks, always computed ("Bn").
        threshold: relative L1 change; at or above it everything is computed.
        warmup: evaluations computed from the start.
        max_run: longest run of predictions ("max continuous"), or None for no limit.
        order: of the Taylor forecast of the middle blocks' delta; 0 reuses it.
        last: compute the last evaluation if the number of evaluations is known.
        branches: "separate" or "together", as in `Method`.
    """
    check_whole("front", front, 1)
    check_whole("back", back, 0)
    check_whole("order", order, 0)
    predictor: Predictor = Taylor(order) if order else Reuse()
    return Method(
        rule=guarded(ChangeAbove(threshold), warmup=warmup, last=last, max_run=max_run),
        predictor=predictor,
        sites=(f"middle:{front}-{back}",),
        codec="delta",
        clock="step" if order else None,
        branches=branches,
        probe=Probe("front", front),
    )
