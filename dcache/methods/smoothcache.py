"""SmoothCache: one table per kind of sublayer, from a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from dcache.errors import DcacheError
from dcache.method import Method
from dcache.methods.coefficients import HOW_TO_MEASURE, refuse_name, table_in
from dcache.methods.preset import preset
from dcache.predictors import Reuse
from dcache.schedulers import ByKind, StepTable

# Names of the kinds in the published files.
KINDS = {"attn1": "attn", "attn2": "cross_attn", "ff": "mlp"}
KINDS |= {kind: kind for kind in KINDS.values()}


@preset(
    "SmoothCache, Liu et al. 2024, arXiv 2411.10510",
    sites="attn, cross_attn, mlp",
    families=("sublayers",),
    needs="a table",
)
def smoothcache(
    table: str | os.PathLike[str] | Mapping[str, Sequence[int]] | None = None, branches: str = "separate"
) -> Method:
    """SmoothCache (Liu et al. 2024): every kind of sublayer is computed where its row of a table has a 1.

    Args:
        table: kind ("attn1", "attn2", "ff", or dcache's own names) -> one 0 or 1 for each evaluation; or a
            JSON file with that, or with it under "smoothcache" and "table".
        branches: "separate" or "together", as in `Method`.

    Raises:
        DcacheError: there is no table (the message says how to measure one), or it is not valid.
    """
    if table is None:
        raise DcacheError(
            f"smoothcache needs table=, a file or rows of 0 and 1 by kind, and has none. {HOW_TO_MEASURE}."
        )
    if isinstance(table, str):
        refuse_name("smoothcache", "table", table)
    rows = table_in("smoothcache", table, KINDS.__contains__)
    if not isinstance(rows, Mapping) or not rows or any(kind not in KINDS for kind in rows):
        raise DcacheError(
            f"smoothcache's table needs rows for some of {', '.join(KINDS)}, got {str(rows)[:60]}"
        )
    plain = all(isinstance(row, Sequence) and all(v in (0, 1) for v in row) for row in rows.values())
    lengths = {len(row) for row in rows.values()} if plain else set()
    if len(lengths) != 1 or 0 in lengths:
        raise DcacheError("smoothcache's rows must be equally long lists of 0 and 1")
    rules = {KINDS[kind]: StepTable(tuple(bool(v) for v in row)) for kind, row in rows.items()}
    if len(rules) < len(rows):
        raise DcacheError(f"smoothcache's table has two rows for one kind: {', '.join(rows)}")
    return Method(
        rule=ByKind(rules),
        predictor=Reuse(),
        sites=tuple(rules),
        codec="value",
        branches=branches,
        fixed=True,
        steps=lengths.pop(),
    )
