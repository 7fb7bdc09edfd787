"""HarmoniCa (Huang et al. 2025): routers learned over whole runs; any evaluation but the first may reuse.

The router of the first evaluation is held at 5, which tells where the file's order begins.
"""

from __future__ import annotations

from typing import Any

from dcache.errors import DcacheError
from dcache.importers.imported import ORDERS, Imported, Options, imported
from dcache.importers.routers import FIRST_STEP_LOGIT, THRESHOLD, computed, logits_of, rows_of

TAKES = ("threshold", "order")


def fits(content: Any) -> bool:
    """Whether it is a file of routers; Learning-to-Cache's look the same."""
    return isinstance(content, dict) and isinstance(content.get("routers"), dict)


def convert(content: Any, options: Options) -> Imported:
    """The schedule of such a file.

    Args:
        content: the file's.
        options: `order` where no router, or more than one, is held at 5.

    Raises:
        DcacheError: it is no such file, or its order cannot be told.
    """
    logits = logits_of(content)
    tau = THRESHOLD if options.threshold is None else options.threshold
    order = options.order or _order(logits)
    ordered = logits if order == ORDERS[0] else logits[::-1]
    table = [[True] * len(row) if t == 0 else computed(row, tau) for t, row in enumerate(ordered)]
    return imported("harmonica", rows_of(table), f"order of the file: {order}", threshold=tau, order=order)


def _order(logits: list[list[float]]) -> str:
    held = [all(logit == FIRST_STEP_LOGIT for logit in row) for row in (logits[0], logits[-1])]
    if held[0] == held[1]:
        raise DcacheError(
            "the file does not tell which router is the first evaluation's (it is held at 5, and neither the "
            "first nor the last alone is): say --order last-first where routers are numbered by timestep, as "
            "its code for DiT does, or --order first-last"
        )
    return ORDERS[0] if held[0] else ORDERS[1]
