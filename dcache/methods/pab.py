"""Pyramid Attention Broadcast: each kind of attention is reused for a number of evaluations."""

from __future__ import annotations

from dcache.errors import DcacheError
from dcache.method import Method
from dcache.methods.preset import preset
from dcache.predictors import Reuse
from dcache.schedulers import ByKind, Every, OutsideWindow, Warmup, any_of
from dcache.util.checks import check_whole


@preset("PAB, Zhao et al. 2024, arXiv 2408.12588", sites="attn, cross_attn, mlp", families=("sublayers",))
def pab(
    attn: int = 2,
    cross_attn: int | None = 6,
    mlp: int | None = None,
    window: tuple[float, float] = (100.0, 850.0),
    warmup: int = 1,
    branches: str = "separate",
) -> Method:
    """PAB (Zhao et al. 2024): each kind of attention is reused for its number of evaluations.

    Outside of the window of timesteps everything is computed. Defaults are those of CogVideoX; published
    elsewhere: Latte attn 2, cross_attn 6, (100, 800); Open-Sora attn 2, cross_attn 6, (450, 930). Kinds that
    a model does not have are ignored, except self-attention.

    Args:
        attn: compute self-attention (joint attention) once per this many evaluations.
        cross_attn: the same for cross-attention; None does not cache it.
        mlp: the same for MLPs; None, as published for most models, does not cache them.
        window: two timesteps, 0 to 1000; outputs are reused strictly between them.
        warmup: evaluations computed from the start.
        branches: "separate" or "together", as in `Method`.
    """
    ranges = {"attn": attn, "cross_attn": cross_attn, "mlp": mlp}
    for name, value in ranges.items():
        if value is not None or name == "attn":
            check_whole(name, value, 1)
    if not isinstance(window, tuple | list) or len(window) != 2:
        raise DcacheError(f"window must be a pair of timesteps, got {window!r}")
    outside = OutsideWindow(*window)
    kinds = {k: any_of(Warmup(warmup), outside, Every(n)) for k, n in ranges.items() if n is not None}
    return Method(
        rule=ByKind(kinds),
        predictor=Reuse(),
        sites=("attn", *(f"{kind}?" for kind in kinds if kind != "attn")),
        codec="value",
        branches=branches,
        fixed=True,
    )
