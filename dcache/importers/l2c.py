"""Learning-to-Cache (Ma et al. 2024): learned routers; only every second evaluation may reuse.

Router t belongs to the t-th smallest timestep, so the last router is the first evaluation's. Routers with odd
numbers are not used: these evaluations compute everything and fill the cache for the next one.
"""

from __future__ import annotations

from typing import Any

from dcache.errors import DcacheError
from dcache.importers.imported import Imported, Options, imported
from dcache.importers.routers import FIRST_STEP_LOGIT, THRESHOLD, computed, logits_of, rows_of

TAKES = ("threshold",)


def fits(content: Any) -> bool:
    """Whether the content has routers and is not recognisably HarmoniCa's.

    HarmoniCa fixes the logits of the first evaluation. Here the last router is that evaluation's and
    untrained.
    """
    if not isinstance(content, dict) or not isinstance(content.get("routers"), dict):
        return False
    try:
        logits = logits_of(content)
    except DcacheError:
        return True
    return not all(logit == FIRST_STEP_LOGIT for logit in logits[-1])


def convert(content: Any, options: Options) -> Imported:
    """Convert routers to a schedule.

    Raises:
        DcacheError: the content is not of this format.
    """
    logits = logits_of(content)
    tau = THRESHOLD if options.threshold is None else options.threshold
    last = len(logits) - 1
    table = [
        [True] * len(row) if t == last or t % 2 else computed(row, tau)
        for t, row in reversed(list(enumerate(logits)))
    ]
    return imported("l2c", rows_of(table), threshold=tau)
