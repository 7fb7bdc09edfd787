"""First Block Cache: the first block decides whether the others run."""

from __future__ import annotations

from dcache.method import Method, site_list
from dcache.methods.preset import preset
from dcache.predictors import Reuse
from dcache.probes import Probe
from dcache.schedulers import ChangeAbove, guarded


@preset("First Block Cache, ParaAttention 2024", sites="all blocks but the first", families=("transformer",))
def fbcache(
    threshold: float = 0.08,
    max_run: int | None = None,
    warmup: int = 1,
    last: bool = False,
    sites: str | list[str] = "auto",
    codec: str | None = "delta",
    branches: str = "separate",
) -> Method:
    """First Block Cache (ParaAttention): run block 0; if it changed below `threshold`, predict the rest.

    The probe is output minus input of the first block; it is compared with that of the last computed
    evaluation by relative L1 over the batch. `threshold=0` computes everything (the comparison is strict).
    One sync per decision.

    Args:
        threshold: relative L1 change; at or above it everything is computed. 0.08 is published for FLUX.
        max_run: longest run of predictions, or None for no limit.
        warmup: evaluations computed from the start.
        last: compute the last evaluation if the number of evaluations is known.
        sites: as in `dcache.sites`; "auto" is all blocks but the first.
        codec: as in `dcache.cache.codec`.
        branches: "separate" or "together", as in `Method`.
    """
    return Method(
        rule=guarded(ChangeAbove(threshold), warmup=warmup, last=last, max_run=max_run),
        predictor=Reuse(),
        sites=site_list(sites),
        codec=codec,
        branches=branches,
        probe=Probe(),
    )
