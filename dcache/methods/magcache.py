"""MagCache: the magnitude of the residual decreases in the same way for every prompt."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dcache.errors import DcacheError
from dcache.method import Method
from dcache.methods.coefficients import numbers
from dcache.methods.preset import preset
from dcache.predictors import Reuse
from dcache.schedulers import Last, MagCacheRule, MaxRun, Retention, any_of


@preset(
    "MagCache, Ma et al. 2025, arXiv 2506.09045", sites="trunk", families=("transformer",),
    needs="ratios of one observed run",
)  # fmt: skip
def magcache(
    threshold: float = 0.24,
    ratios: str | os.PathLike[str] | Sequence[float] | None = None,
    max_run: int = 5,
    retention: float = 0.1,
    last: bool = False,
    branches: str = "separate",
) -> Method:
    """MagCache (Ma et al. 2025): the trunk's delta is reused while its known change of magnitude is small.

    The ratio r_t = mean over tokens of |delta_t| / |delta_{t-1}| hardly depends on the prompt; the error
    since the last compute is the sum of |1 - product of r|. No tensor is read for a decision. Defaults are
    FLUX's; published elsewhere, as threshold, max_run, retention: 0.06, 3, 0.2 (diffusers), 0.24, 6, 0.2
    (HunyuanVideo), 0.12, 2, 0.2 (Wan).

    Args:
        threshold: largest error that is predicted.
        ratios: one for each evaluation of a run, or a file; another number of evaluations uses the nearest.
        max_run: longest run of predictions ("K").
        retention: share of the run computed from the start, at least one evaluation.
        last: compute the last evaluation if the number of evaluations is known.
        branches: "separate" or "together", as in `Method`.

    Raises:
        DcacheError: there are no ratios; the message says how to measure them.
    """
    table = numbers("magcache", "ratios", ratios, least=2)
    if min(table) <= 0:
        raise DcacheError(f"ratios of magcache are ratios of magnitudes, above 0, and one is {min(table):g}")
    return Method(
        rule=any_of(
            Retention(retention), Last() if last else None, MaxRun(max_run), MagCacheRule(threshold, table)
        ),
        predictor=Reuse(),
        sites=("trunk",),
        codec="delta",
        branches=branches,
    )
