"""SmoothCache (Liu et al. 2024): a row of 0 and 1 for every kind of sublayer, or for every sublayer.

    {"attn1": [1, 0, ...], "ff": [...]}        for all blocks
    {"attn-0": [1, 0, ...], "mlp-0": [...]}    for each block, as in its files for Learning-to-Cache

1 is computed.
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
    """Whether all keys of the content are names of rows."""
    return isinstance(content, dict) and bool(content) and all(_NAME.fullmatch(str(k)) for k in content)


def convert(content: Any, options: Options) -> Imported:
    """Convert rows to a schedule.

    Args:
        content: content of the file.
        options: needs `blocks`, the number of blocks, if rows are for kinds of sublayers.

    Raises:
        DcacheError: the content is not of this format, or the number of blocks is missing.
    """
    if not fits(content):
        raise DcacheError(
            f"this is not SmoothCache's format: expected rows named {', '.join(KINDS)}, or attn-0 and so on"
        )
    lengths = {len(row) if isinstance(row, list) else 0 for row in content.values()}
    if len(lengths) != 1 or not 0 < max(lengths) <= MOST_STEPS:
        raise DcacheError("every row must be a list of 0 and 1, all equally long")
    names = {name: _NAME.fullmatch(name) for name in content}
    depths = {name: match["depth"] for name, match in names.items() if match is not None}
    by_block = {depth is not None for depth in depths.values()}
    if len(by_block) > 1:
        raise DcacheError("some rows are for one block and some for all: expected one kind only")
    if by_block == {True} and options.blocks is not None:
        raise DcacheError("the rows are for single blocks: leave --blocks out")
    if by_block == {False} and options.blocks is None:
        raise DcacheError(
            "the rows are for kinds of sublayers, and the file does not have the number of blocks: give "
            "--blocks. Or use the file without importing it: dcache.methods.smoothcache(table=FILE)"
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
                raise DcacheError(f"two rows are for {kind}:{i}")
            rows[f"{kind}:{i}"] = [bool(value) for value in row]
    return imported("smoothcache", rows)
