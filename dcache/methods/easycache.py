"""EasyCache: the ratio of the output's change to the input's change is nearly constant."""

from __future__ import annotations

from dcache.method import Method
from dcache.methods.output_rate import OutputRate
from dcache.methods.preset import preset
from dcache.predictors import Reuse
from dcache.probes import Probe
from dcache.schedulers import Accumulated, guarded


@preset("EasyCache, Zhou et al. 2025, arXiv 2507.02860", sites="model")
def easycache(
    threshold: float = 0.05,
    warmup: int = 10,
    last: bool = True,
    codec: str | None = "delta",
    branches: str = "together",
) -> Method:
    """EasyCache (Zhou et al. 2025): the model's delta is reused while little change is expected.

    The expected relative change of the output is summed since the last compute. Defaults are those of Wan;
    HunyuanVideo has threshold 0.025 and warmup 5. The first branch of an evaluation decides for all. One sync
    per evaluation.

    Args:
        threshold: predicted while the sum is below it.
        warmup: evaluations computed from the start.
        last: compute the last evaluation if the number of evaluations is known.
        codec: "delta" as published, or "value".
        branches: "together" as published, or "separate".
    """
    return Method(
        rule=guarded(Accumulated(threshold), warmup=warmup, last=last),
        predictor=Reuse(),
        sites=("model",),
        codec=codec,
        branches=branches,
        probe=Probe("input", indicator=OutputRate),
    )
