"""FasterCache: attention on alternate evaluations, and guidance from the sibling branch."""

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
    """FasterCache (Lv et al. 2024): attention is extrapolated, the branch without the prompt is not run.

    On alternate evaluations attention is z_n + weight (z_n - z_{n-1}). The branch without the prompt is the
    one with it plus their last difference, whose low frequencies count 1.1 times early (timesteps 99 to 901)
    and high ones late (below 301); every `guidance_interval`-th evaluation computes both. The factor does not
    compound, as it does in the published code. Windows and intervals are those of diffusers.

    Args:
        attn_interval: compute attention once per this many evaluations.
        guidance_interval: compute the branch without the prompt once per this many.
        weight: share of the last difference that attention goes on by.
        attn_below: timestep (0 to 1000) below which attention is predicted.
        guidance_below: timestep below which guidance is predicted.
        warmup: evaluations computed from the start.
        branches: whether guidance branches decide "separate"ly or "together".
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
        sibling="bands",
    )
