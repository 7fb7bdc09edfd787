"""Learning-to-Cache (Ma et al. 2024): learned routers; only every second evaluation may reuse.

Router t belongs to the t-th smallest timestep, so the last one to the first evaluation. Routers with an odd
number are not used: everything is computed there and remembered for the next evaluation.
"""

from __future__ import annotations

from typing import Any

from dcache.errors import DcacheError
from dcache.importers.imported import Imported, Options, imported
from dcache.importers.routers import FIRST_STEP_LOGIT, THRESHOLD, computed, logits_of, rows_of

TAKES = ("threshold",)


def fits(content: Any) -> bool:
    """Whether it is a file of routers, and not surely HarmoniCa's, whose first evaluation's is held.

    The last router here is an odd number's, or the first evaluation's, and was never trained.
    """
    if not isinstance(content, dict) or not isinstance(content.get("routers"), dict):
        return False
    try:
        logits = logits_of(content)
    except DcacheError:
        return True
    return not all(logit == FIRST_STEP_LOGIT for logit in logits[-1])


def convert(content: Any, options: Options) -> Imported:
    """The schedule of such a file.

    Raises:
        DcacheError: it is none.
    """
    logits = logits_of(content)
    tau = THRESHOLD if options.threshold is None else options.threshold
    last = len(logits) - 1
    table = [
        [True] * len(row) if t == last or t % 2 else computed(row, tau)
        for t, row in reversed(list(enumerate(logits)))
    ]
    return imported("l2c", rows_of(table), threshold=tau)
