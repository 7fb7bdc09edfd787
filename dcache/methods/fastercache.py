"""FasterCache: attention on alternate evaluations, and the unconditional branch from the conditional one."""

from __future__ import annotations

from dcache.method import Method
from dcache.methods.preset import preset
from dcache.predictors import Linear
from dcache.schedulers import ByKind, Every, OutsideWindow, Warmup, any_of


@preset("FasterCache, Lv et al. 2024, arXiv 2410.19355", sites="guidance, attn", families=("guidance",))
def fastercache(
    attn_interval: int = 2,
    guidance_interval: int = 5,
    weight: float = 0.5,
    attn_below: float = 681.0,
    guidance_below: float = 641.0,
    warmup: int = 1,
    branches: str = "separate",
) -> Method:
    """FasterCache (Lv et al. 2024): attention is extrapolated, the unconditional branch is predicted.

    On alternate evaluations attention is z_n + weight (z_n - z_{n-1}). The unconditional branch is predicted
    as the conditional one plus their last difference. The difference's low frequencies are multiplied by 1.1
    at timesteps 99 to 901, its high frequencies below 301. Every `guidance_interval`-th evaluation computes
    both branches. In the published code the factor compounds from prediction to prediction; here it does not.
    Windows and intervals are those of diffusers.

    Args:
        attn_interval: compute attention once per this many evaluations.
        guidance_interval: compute the unconditional branch once per this many evaluations.
        weight: share of the last difference that is added to the last attention output.
        attn_below: timestep (0 to 1000) below which attention is predicted.
        guidance_below: timestep below which the unconditional branch is predicted.
        warmup: evaluations computed from the start.
        branches: "separate" or "together", as in `Method`.
    """
    rules = {
        "attn": any_of(Warmup(warmup), OutsideWindow(-1.0, attn_below), Every(attn_interval)),
        "guidance": any_of(Warmup(warmup), OutsideWindow(-1.0, guidance_below), Every(guidance_interval)),
    }
    return Method(
        rule=ByKind(rules),
        predictor=Linear(weight),
        sites=("guidance", "attn?"),
        codec="value",
        branches=branches,
        fixed=True,
        uncond_from="bands",
    )
