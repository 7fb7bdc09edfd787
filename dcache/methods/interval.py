"""FORA: compute every N-th evaluation and reuse in between."""

from __future__ import annotations

from dcache.method import Method, site_list
from dcache.methods.preset import preset
from dcache.predictors import Reuse
from dcache.schedulers import Every, guarded


@preset("FORA, Selvaraju et al. 2024, arXiv 2407.01425", sites="any")
def interval(
    interval: int = 3,
    warmup: int = 1,
    last: bool = False,
    sites: str | list[str] = "auto",
    codec: str | None = None,
    branches: str = "separate",
) -> Method:
    """FORA (Selvaraju et al. 2024): compute every `interval`-th evaluation, reuse its features in between.

    The paper caches attention and MLP outputs (`sites=["attn", "mlp"]`). The default caches the trunk, which
    stores one tensor.

    Args:
        interval: compute when `interval - 1` predictions have passed since the last compute; at least 1.
        warmup: evaluations computed from the start.
        last: compute the last evaluation if the number of evaluations is known.
        sites: as in `dcache.sites`.
        codec: as in `dcache.cache.codec`; None is `delta` on runs of blocks and `value` elsewhere.
        branches: "separate" or "together", as in `Method`.
    """
    return Method(
        rule=guarded(Every(interval), warmup=warmup, last=last),
        predictor=Reuse(),
        sites=site_list(sites),
        codec=codec,
        branches=branches,
    )
