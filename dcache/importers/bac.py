"""BAC (Ji et al. 2025): for every sublayer of a policy's decoder, the list of steps that compute it.

    {"decoder.layers.0.dropout1": [0, 12, 40, 71, 90], "decoder.layers.0.dropout3": [...], ...}

A file has all lists in one object; or a folder has a file for each list. The dropouts 1, 2 and 3 of a layer
are the outputs of self-attention, cross-attention and MLP; RDT's blocks name them attn, cross_attn and ffn.
"""

from __future__ import annotations

import re
from typing import Any

from dcache.errors import DcacheError
from dcache.importers.imported import MOST_BLOCKS, Imported, Options, imported
from dcache.util.checks import is_whole

TAKES = ("steps",)
KINDS = {"dropout1": "attn", "dropout2": "cross_attn", "dropout3": "mlp"}
KINDS |= {"sa_block": "attn", "mha_block": "cross_attn", "ff_block": "mlp"}
KINDS |= {"attn": "attn", "cross_attn": "cross_attn", "ffn": "mlp"}
_NAME = re.compile(
    r"(?:decoder\.layers\.(?P<layer>\d{1,6})[._](?:dropout[123]|sa_block|mha_block|ff_block)"
    r"|blocks\.(?P<block>\d{1,6})[._](?:attn|cross_attn|ffn))"
)


def fits(content: Any) -> bool:
    """Whether a key of the content is a sublayer's name."""
    return isinstance(content, dict) and any(_NAME.fullmatch(str(name)) for name in content)


def convert(content: Any, options: Options) -> Imported:
    """Convert lists of steps to a schedule.

    Args:
        content: content of the file.
        options: needs `steps`, the number of evaluations of a run.

    Raises:
        DcacheError: the content is not of this format, or the number of steps is missing or too small.
    """
    if not fits(content):
        raise DcacheError(
            "this is not BAC's format: expected lists of steps by names such as decoder.layers.0.dropout1 or "
            "blocks.0.attn"
        )
    if options.steps is None:
        raise DcacheError("the file does not have the number of evaluations of a run: give --steps")
    rows: dict[str, list[bool]] = {}
    others = []
    for name, steps in content.items():
        match = _NAME.fullmatch(str(name))
        if match is None:
            others.append(str(name))
            continue
        chosen = _checked(name, steps, options.steps)
        site = _site(name, match)
        if site in rows:
            raise DcacheError(f"two lists are for {site}, the second is {name!r}")
        rows[site] = [t in chosen for t in range(options.steps)]
    note = f"not cached by BAC, so left out: {', '.join(others[:5])}" + (
        f" and {len(others) - 5} more" if len(others) > 5 else ""
    )
    return imported("bac", rows, note if others else "")


def _site(name: str, match: re.Match[str]) -> str:
    depth = int(match["layer"] or match["block"])
    if depth >= MOST_BLOCKS:
        raise DcacheError(f"{name!r}: blocks are numbered up to {MOST_BLOCKS - 1}")
    part = re.split(r"\d+[._]", name, maxsplit=1)[1]
    return f"{KINDS[part]}:{depth}"


def _checked(name: str, steps: Any, count: int) -> set[int]:
    plain = isinstance(steps, list) and all(map(is_whole, steps))
    if not plain or not steps or any(not 0 <= t < count for t in steps):
        raise DcacheError(f"{name!r} must be a list of steps from 0 to {count - 1}, got {str(steps)[:60]}")
    return set(steps)
