"""Sizes in bytes: of tensors, read from a text, written as one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch

from dcache.errors import DcacheError

_UNITS = {
    "": 1,
    "b": 1,
    **{unit: 1000**i for i, unit in enumerate(("kb", "mb", "gb", "tb"), 1)},
    **{unit: 1024**i for i, unit in enumerate(("kib", "mib", "gib", "tib"), 1)},
}


def read_bytes(limit: Any) -> int:
    """The number of bytes of a limit: a whole number, "512MB" (powers of 1000) or "1.5 GiB" (of 1024).

    Raises:
        DcacheError: it is none of these, or below 1.
    """
    count: float = 0
    if isinstance(limit, int) and not isinstance(limit, bool):
        count = limit
    elif isinstance(limit, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", limit)
        if match is not None and match[2].lower() in _UNITS:
            count = float(match[1]) * _UNITS[match[2].lower()]
    if count < 1:
        raise DcacheError(
            "max_cache_bytes must be a number of bytes of at least 1, or text such as '512MB' or '1.5GiB', "
            f"got {limit!r}"
        )
    return int(count)


def format_bytes(count: int) -> str:
    """A number of bytes as text, in KiB, MiB or GiB.

    >>> format_bytes(1310720)
    '1.2 MiB'
    """
    value, units = count / 1024, ["KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} KiB" if units[0] == "KiB" else f"{value:.1f} {units[0]}"


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages of these tensors, each storage counted once."""
    storages: dict[tuple[torch.device, int], int] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        storages[storage.device, storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def bytes_of_elements(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the elements of these tensors, whatever their storages hold besides."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
