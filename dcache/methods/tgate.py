"""T-GATE: cross-attention and guidance are cached from an evaluation on."""

from __future__ import annotations

import sys

from dcache.method import Method
from dcache.methods.preset import preset
from dcache.predictors import Reuse
from dcache.schedulers import ByKind, Every, Switch, Warmup, any_of
from dcache.util.checks import check_whole


@preset(
    "T-GATE, Zhang et al. 2024, arXiv 2404.02747", sites="cross_attn, guidance, attn",
    families=("cross-attention", "guidance"),
)  # fmt: skip
def tgate(
    gate: int | None = 10,
    attn_interval: int = 5,
    late_interval: int = 1,
    warmup: int = 2,
    branches: str = "separate",
) -> Method:
    """T-GATE (Zhang et al. 2024): from the gate on, cross-attention is reused and guidance is off.

    From the gate on, cross-attention is the mean of both guidance branches' last outputs, and the denoiser
    runs the conditional rows only. Before the gate, self-attention is computed every `attn_interval`
    evaluations. Defaults are those of SDXL at 25 steps; PixArt: gate 15, attn_interval 3, warmup 2. If the
    guidance branches are separate calls, each reuses its last cross-attention, and the unconditional call is
    skipped.

    Args:
        gate: first evaluation without text and guidance; None for never.
        attn_interval: before the gate, compute self-attention once per this many evaluations.
        late_interval: the same from the gate on.
        warmup: evaluations computed from the start.
        branches: "separate" or "together", as in `Method`.
    """
    if gate is not None:
        check_whole("gate", gate, 1)
    until = sys.maxsize if gate is None else gate
    early, late = Every(attn_interval), Every(late_interval)
    return Method(
        rule=ByKind(
            {
                "cross_attn": Warmup(until),
                "guidance": Warmup(until),
                "attn": any_of(Warmup(warmup), Switch(until, early, late)),
            }
        ),
        predictor=Reuse(),
        sites=("guidance", "cross_attn?", "attn?"),
        codec="value",
        branches=branches,
        fixed=True,
        uncond_from="drop",
    )
