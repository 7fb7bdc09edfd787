"""DeepCache: a UNet's deep part is reused, its outer levels are computed."""

from __future__ import annotations

from collections.abc import Sequence

from dcache.errors import DcacheError
from dcache.method import Method, site_list
from dcache.methods.preset import preset
from dcache.predictors import Reuse
from dcache.schedulers import Every, Listed, Warmup, any_of
from dcache.util.checks import check_whole, check_wholes


@preset("DeepCache, Ma et al. 2023, arXiv 2312.00858", sites="bracket", families=("unet",))
def deepcache(
    interval: int = 3,
    branch_id: int = 0,
    steps: Sequence[int] | None = None,
    sites: str | list[str] | None = None,
    warmup: int = 1,
    branches: str = "separate",
) -> Method:
    """DeepCache (Ma et al. 2023): everything between the source and the sink of one UNet skip is reused.

    Args:
        interval: compute when `interval - 1` predictions have passed since the last compute (uniform
            schedule).
        branch_id: the published index of the skip whose bracket is cached, counted from the outermost.
        steps: the computed evaluations (non-uniform schedule) instead of `interval`; 0 is always computed.
        sites: "bracket:N" instead of `branch_id`.
        warmup: evaluations computed from the start.
        branches: "separate" or "together", as in `Method`.
    """
    check_whole("branch_id", branch_id, 0)
    where = (f"bracket:{branch_id}",) if sites is None else site_list(sites)
    if len(where) != 1 or not str(where[0]).startswith("bracket"):
        raise DcacheError(f"deepcache caches a bracket of a UNet: expected sites='bracket:N', got {sites!r}")
    when = Every(interval) if steps is None else Listed(check_wholes("steps", steps, 0))
    return Method(
        rule=any_of(Warmup(warmup), when),
        predictor=Reuse(),
        sites=where,
        codec="value",
        branches=branches,
    )
