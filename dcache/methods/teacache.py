"""TeaCache: the change of the first block's modulated input predicts the change of the output."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dcache.method import Method
from dcache.methods.coefficients import numbers
from dcache.methods.preset import preset
from dcache.predictors import Reuse
from dcache.probes import Probe, SinceStep
from dcache.schedulers import Accumulated, guarded

# Degree 4, highest power first, as published for each model.
PUBLISHED = {
    "flux": (498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861),
    "hunyuan-video": (733.226126, -401.131952, 67.5869174, -3.149878, 0.0961237896),
}


@preset(
    "TeaCache, Liu et al. 2024, arXiv 2411.19108", sites="trunk", families=("transformer",),
    needs="coefficients: published for " + ", ".join(PUBLISHED) + "; else measured",
)  # fmt: skip
def teacache(
    threshold: float = 0.25,
    coefficients: str | os.PathLike[str] | Sequence[float] | None = None,
    warmup: int = 1,
    last: bool = True,
    branches: str = "separate",
) -> Method:
    """TeaCache (Liu et al. 2024): the trunk is computed when rescaled changes of the modulated input add up.

    d_t is the relative L1 change of the first block's attention input from one evaluation to the next. A
    polynomial of d_t gives the expected change of the output. The trunk's delta is reused while the sum since
    the last compute is below `threshold`. In a predicted evaluation the first block runs up to its attention.
    One sync per decision.

    Args:
        threshold: 0.25, 0.4, 0.6 and 0.8 are published for FLUX, 0.1 and 0.15 for HunyuanVideo.
        coefficients: of the polynomial, highest power first; the name of a published set; or a file.
        warmup: evaluations computed from the start.
        last: compute the last evaluation if the number of evaluations is known.
        branches: "separate" or "together", as in `Method`.

    Raises:
        DcacheError: there are no coefficients; the message says how to measure them.
    """
    polynomial = numbers("teacache", "coefficients", coefficients, least=1, published=PUBLISHED)
    rule = guarded(Accumulated(threshold, polynomial), warmup=warmup, last=last)
    return Method(
        rule=rule,
        predictor=Reuse(),
        sites=("trunk",),
        codec="delta",
        branches=branches,
        probe=Probe("modulated", indicator=SinceStep),
    )
