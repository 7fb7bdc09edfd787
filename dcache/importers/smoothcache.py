"""SmoothCache (Liu et al. 2024): a row of 0 and 1 for every kind of sublayer, or for every sublayer.

    {"attn1": [1, 0, ...], "ff": [...]}        of all blocks
    {"attn-0": [1, 0, ...], "mlp-0": [...]}    of each block, as its files for Learning-to-Cache have it

1 computes.
"""

from __future__ import annotations

import re
from typing import Any

from dcache.errors import DcacheError
from dcache.importers.imported import MOST_BLOCKS, MOST_STEPS, Imported, Options, imported
from dcache.methods.smoothcache import KINDS

TAKES = ("blocks",)
_NAME = re.compile(rf"(?P<kind>{'|'.join(KINDS)})(?:-(?P<depth>\d{{1,6}}))?")


def fits(content: Any) -> bool:
    """Whether it is such a file."""
    return isinstance(content, dict) and bool(content) and all(_NAME.fullmatch(str(k)) for k in content)


def convert(content: Any, options: Options) -> Imported:
    """The schedule of such a file.

    Args:
        content: the file's.
        options: `blocks` is needed where rows are of kinds.

    Raises:
        DcacheError: it is no such file, or the number of blocks is not known.
    """
    if not fits(content):
        raise DcacheError(
            f"this is no file of SmoothCache: expected rows named {', '.join(KINDS)}, or attn-0 and the like"
        )
    lengths = {len(row) if isinstance(row, list) else 0 for row in content.values()}
    if len(lengths) != 1 or not 0 < max(lengths) <= MOST_STEPS:
        raise DcacheError("every row must be a list of 0 and 1, all equally long")
    names = {name: _NAME.fullmatch(name) for name in content}
    depths = {name: match["depth"] for name, match in names.items() if match is not None}
    by_block = {depth is not None for depth in depths.values()}
    if len(by_block) > 1:
        raise DcacheError("some rows are of one block and some of all: expected one or the other")
    if by_block == {True} and options.blocks is not None:
        raise DcacheError("the rows are of single blocks: leave the number of blocks out")
    if by_block == {False} and options.blocks is None:
        raise DcacheError(
            "the rows are of kinds of sublayers, and the file does not tell how many blocks there are: give "
            "--blocks. Or, without importing: dcache.methods.smoothcache(table=FILE) asks the model"
        )
    rows: dict[str, list[bool]] = {}
    for name, row in content.items():
        if not all(isinstance(value, int) and value in (0, 1) for value in row):
            raise DcacheError(f"row {name!r} must be a list of 0 and 1, got {str(row)[:60]}")
        depth = depths[name]
        kind = KINDS[name.partition("-")[0]]
        if depth is not None and int(depth) >= MOST_BLOCKS:
            raise DcacheError(f"row {name!r}: blocks are numbered up to {MOST_BLOCKS - 1}")
        for i in [int(depth)] if depth is not None else range(options.blocks or 0):
            if f"{kind}:{i}" in rows:
                raise DcacheError(f"two rows are of {kind}:{i}")
            rows[f"{kind}:{i}"] = [bool(value) for value in row]
    return imported("smoothcache", rows)
