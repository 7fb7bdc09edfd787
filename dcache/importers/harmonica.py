"""HarmoniCa (Huang et al. 2025): routers learned over whole runs; any evaluation but the first may reuse.

All logits of the first evaluation's router are fixed at 5, which shows the order of the file.
"""

from __future__ import annotations

from typing import Any

from dcache.errors import DcacheError
from dcache.importers.imported import ORDERS, Imported, Options, imported
from dcache.importers.routers import FIRST_STEP_LOGIT, THRESHOLD, computed, logits_of, rows_of

TAKES = ("threshold", "order")


def fits(content: Any) -> bool:
    """Whether the content has routers; Learning-to-Cache's files fit too."""
    return isinstance(content, dict) and isinstance(content.get("routers"), dict)


def convert(content: Any, options: Options) -> Imported:
    """Convert routers to a schedule.

    Args:
        content: content of the file.
        options: `order` is needed if neither or both of the first and last router are fixed at 5.

    Raises:
        DcacheError: the content is not of this format, or its order is not known.
    """
    logits = logits_of(content)
    tau = THRESHOLD if options.threshold is None else options.threshold
    order = options.order or _order(logits)
    ordered = logits if order == ORDERS[0] else logits[::-1]
    table = [[True] * len(row) if t == 0 else computed(row, tau) for t, row in enumerate(ordered)]
    return imported("harmonica", rows_of(table), f"order of the file: {order}", threshold=tau, order=order)


def _order(logits: list[list[float]]) -> str:
    fixed = [all(logit == FIRST_STEP_LOGIT for logit in row) for row in (logits[0], logits[-1])]
    if fixed[0] == fixed[1]:
        raise DcacheError(
            "the order of the routers is not clear: the first evaluation's is fixed at 5, but both or "
            "neither of the first and last one are. Give --order last-first if routers are numbered by "
            "timestep, as in the code for DiT, or --order first-last"
        )
    return ORDERS[0] if fixed[0] else ORDERS[1]
