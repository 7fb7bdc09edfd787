"""Pyramid Attention Broadcast: the more an attention mixes, the longer its output lasts."""

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
    """PAB (Zhao et al. 2024): every kind of attention is reused for a number of evaluations of its own.

    Outside of the window of timesteps everything is computed. Defaults are those of CogVideoX; published
    elsewhere: Latte attn 2, cross_attn 6, (100, 800); Open-Sora attn 2, cross_attn 6, (450, 930). A model
    without one of the kinds does without it.

    Args:
        attn: compute self-attention (joint attention) once per this many evaluations.
        cross_attn: the same for cross-attention, None to leave it alone.
        mlp: the same for MLPs, None as published for most models.
        window: timesteps, 0 to 1000, strictly between which outputs are reused.
        warmup: evaluations computed from the start.
        branches: whether guidance branches decide "separate"ly or "together".
    """
    ranges = {"attn": attn, "cross_attn": cross_attn, "mlp": mlp}
    for name, value in ranges.items():
        if value is not None or name == "attn":
            check_whole(name, value, 1)
    if not isinstance(window, tuple | list) or len(window) != 2:
        raise DcacheError(f"window must be a pair of timesteps, got {window!r}")
    inside = OutsideWindow(*window)
    kinds = {k: any_of(Warmup(warmup), inside, Every(n)) for k, n in ranges.items() if n is not None}
    return Method(
        rule=ByKind(kinds),
        predictor=Reuse(),
        sites=("attn", *(f"{kind}?" for kind in kinds if kind != "attn")),
        codec="value",
        branches=branches,
        fixed=True,
    )
