"""Bytes: as a limit is written, and what an anchor will take before it is there."""

from __future__ import annotations

import re
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.history import History
from dcache.kernels.packed import LARGEST, groups

_UNITS = {
    "": 1,
    "b": 1,
    **{unit: 1000**i for i, unit in enumerate(("kb", "mb", "gb", "tb"), 1)},
    **{unit: 1024**i for i, unit in enumerate(("kib", "mib", "gib", "tib"), 1)},
}


def read_bytes(limit: Any) -> int:
    """A number of bytes: a whole number, or text such as "512MB" (powers of 1000) or "1.5 GiB" (of 1024).

    Raises:
        DcacheError: it is neither, or not positive.
    """
    found: float = 0
    if isinstance(limit, int) and not isinstance(limit, bool):
        found = limit
    elif isinstance(limit, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", limit)
        if match is not None and match[2].lower() in _UNITS:
            found = float(match[1]) * _UNITS[match[2].lower()]
    if found < 1:
        raise DcacheError(
            "max_cache_bytes must be a number of bytes of at least 1, or text such as '512MB' or '1.5GiB', "
            f"got {limit!r}"
        )
    return int(found)


def bytes_of_like(history: History, store: torch.dtype | None) -> int:
    """Bytes of one anchor of a history, kept in `store`."""
    return sum(bytes_in(*one, store) for one in history.like if one is not None)


def bytes_in(shape: torch.Size, own: torch.dtype, store: torch.dtype | None) -> int:
    """Bytes of a tensor of this shape and dtype, kept in `store` (its own dtype if None)."""
    if store is None or not own.is_floating_point:
        return shape.numel() * own.itemsize
    return shape.numel() * store.itemsize + (4 * groups(shape) if store in LARGEST else 0)
