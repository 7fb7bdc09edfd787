"""Ranges of the numbers that commands and functions take: one check and one message for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dcache.errors import DcacheError
from dcache.util.checks import is_finite, is_whole

MOST = 10**6


@dataclass(frozen=True)
class Whole:
    """Whole numbers from `low` to `high`."""

    low: int
    high: int = MOST

    def accepts(self, value: object) -> bool:
        """Whether a value is one of them."""
        return is_whole(value) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"a whole number between {self.low} and {self.high}"


@dataclass(frozen=True)
class Real:
    """Finite numbers of at least `low`, or above it."""

    low: float
    above: bool = False

    def accepts(self, value: object) -> bool:
        """Whether a value is one of them."""
        if not is_finite(value):
            return False
        return value > self.low if self.above else value >= self.low

    def __str__(self) -> str:
        return f"a number {'above' if self.above else 'of at least'} {self.low:g}"


LIMITS: dict[str, Whole | Real] = {
    "seed": Whole(0, 2**62),
    "steps": Whole(1),
    "height": Whole(1),
    "width": Whole(1),
    "frames": Whole(1),
    "images_per_prompt": Whole(1),
    "batch_size": Whole(1),
    "repeats": Whole(1),
    "budget": Whole(1, 10**9),
    "iterations": Whole(1, 10**9),
    "router": Whole(0, 10**9),
    "workers": Whole(1, 1024),
    "threads": Whole(1, 1024),
    "guidance": Real(0),
    "speedup": Real(1, above=True),
    "cap": Real(0, above=True),
}


def check_limit(name: str, value: object, label: str = "") -> None:
    """Check one number.

    Args:
        name: its name in `LIMITS`.
        value: the number; None (not given) passes.
        label: how the message names it, if not by its name: `--steps`.

    Raises:
        DcacheError: it is of another type, or out of range.
    """
    if value is not None:
        check_within(LIMITS[name], value, label or name)


def check_within(limit: Whole | Real, value: object, label: str) -> None:
    """Check one number against a limit of its own.

    Raises:
        DcacheError: it is of another type, or out of range.
    """
    if not limit.accepts(value):
        raise DcacheError(f"{label} must be {limit}, got {value!r}")


def check_device(device: Any) -> None:
    """Check that a device exists here: `auto`, or one of torch's with an index that there is.

    Raises:
        DcacheError: torch does not know it, or this machine has none.
    """
    if device == "auto":
        return
    import torch

    expected = "expected auto, cpu, or a GPU of this machine such as cuda or cuda:0"
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise DcacheError(f"there is no device {device!r}: {expected}") from error
    count = torch.cuda.device_count() if parsed.type == "cuda" else None
    if count is not None and (parsed.index or 0) >= count:
        raise DcacheError(
            f"torch finds {count} CUDA device(s) here, and the device is {device!r}: {expected}"
        )
    try:
        # `meta` has tensors without numbers.
        torch.zeros(1, device=parsed).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise DcacheError(f"torch cannot use the device {device!r} here: {expected}") from error
