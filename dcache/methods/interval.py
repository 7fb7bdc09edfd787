"""FORA: compute every N-th evaluation and reuse in between."""

from __future__ import annotations

from dcache.method import Method, site_list
from dcache.methods.about import about
from dcache.predictors import Reuse
from dcache.schedulers import Every, guarded


@about("FORA, Selvaraju et al. 2024, arXiv 2407.01425", sites="any")
def interval(
    interval: int = 3,
    warmup: int = 1,
    last: bool = False,
    sites: str | list[str] = "auto",
    codec: str | None = None,
    branches: str = "separate",
) -> Method:
    """FORA (Selvaraju et al. 2024): compute every `interval`-th evaluation, reuse what it gave in between.

    The paper remembers attention and MLP outputs (`sites=["attn", "mlp"]`); the default remembers the whole
    trunk, which costs one tensor. Parameters as in `dcache.methods.newton`.
    """
    return Method(
        "interval",
        rule=guarded(Every(interval), warmup=warmup, last=last),
        predictor=Reuse(),
        sites=site_list(sites),
        codec=codec,
        branches=branches,
        predicts=interval > 1,
        parameters={"interval": interval, "warmup": warmup, "last": last, "sites": sites},
    )
