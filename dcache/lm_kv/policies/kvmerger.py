"""KVMerger."""

from __future__ import annotations

from dcache.errors import DcacheError
from dcache.lm_kv.options import Allocation
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.observers import ColumnSums
from dcache.lm_kv.scoring.scorers import ReceivedSum
from dcache.lm_kv.storage.merging import MergeRuns
from dcache.util.checks import is_number


@preset
def kvmerger(
    budget: float | None = None,
    threshold: float = 0.9,
    window: float = 0.5,
    sinks: int = 0,
    allocation: Allocation = "uniform",
    every: int = 32,
) -> Policy:
    """Merge neighbours with like keys into the heaviest of them (Wang et al. 2024, arXiv 2407.08454).

    Tokens are chosen as `h2o` does; what it drops is merged where a kept token is in the same run of like
    keys. No other policy merges: dropping was better wherever it was measured.

    Args:
        budget: as in `Policy`.
        threshold: cosine of neighbours above which they are in one run; from -1 to 1.
        window: newest tokens kept; 0.5 is half the budget.
        sinks: first tokens kept beside the score.
        allocation: as in `Policy`.
        every: decoded tokens between evictions.
    """
    if not is_number(threshold) or not -1.0 <= threshold <= 1.0:
        raise DcacheError(f"threshold must be a number from -1 to 1, got {threshold!r}")
    return Policy(
        scorer=ReceivedSum(),
        observer=ColumnSums(),
        reducer=MergeRuns(threshold),
        budget=budget,
        sinks=sinks,
        window=window,
        allocation=allocation,
        every=every,
    )
