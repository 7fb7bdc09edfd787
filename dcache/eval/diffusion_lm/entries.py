"""Parsing of `--policies`: row policies with their options, and the decode order of each.

>>> [(entry.label, entry.order(16).text) for entry in parse("dual:block=4;window:window=8")]
[('dual block=4', 'block 4'), ('window window=8', 'block 16, window 8')]
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from dcache import diffusion_lm
from dcache.diffusion_lm import RowMethod
from dcache.errors import DcacheError
from dcache.methods.resolve import read_options


@dataclass(frozen=True)
class Order:
    """In which order tokens may be decoded: quality compares within one alone.

    Attributes:
        block: tokens of a block.
        window: masked positions at the left of it that may be decoded; None for all.
    """

    block: int
    window: int | None

    @property
    def text(self) -> str:
        """The order in words."""
        return f"block {self.block}" + ("" if self.window is None else f", window {self.window}")

    def reference(self) -> RowMethod | None:
        """The method that computes every row in this order; None for the model without a method."""
        return None if self.window is None else diffusion_lm.make("none", window=self.window)


@dataclass(frozen=True)
class RowEntry:
    """A policy to measure.

    Attributes:
        label: name in tables.
        method: the policy.
    """

    label: str
    method: RowMethod

    @property
    def file_name(self) -> str:
        """The label as part of a file's name."""
        return re.sub(r"[^a-zA-Z0-9.=]+", "-", self.label)

    def order(self, block: int) -> Order:
        """Its decode order, where others have blocks of `block` tokens."""
        size = self.method.policy.block or block
        window = self.method.policy.window
        return Order(size, None if window is None or window >= size else window)


def parse(text: str) -> list[RowEntry]:
    """Read policies separated by `;`, each a name with options, as in "dual:block=8;dkv:refresh=4".

    Raises:
        DcacheError: an unknown policy or option, one named twice, or none.
    """
    entries = [_entry(spec.strip()) for spec in text.split(";") if spec.strip()]
    if not entries:
        known = ", ".join(diffusion_lm.available())
        raise DcacheError(f"--policies names none: give some of {known}, as in 'dual:block=8;dkv'")
    names = [entry.file_name for entry in entries]
    twice = sorted({entry.label for entry in entries if names.count(entry.file_name) > 1})
    if twice:
        raise DcacheError(f"--policies names {', '.join(twice)} more than once: name each policy once")
    return entries


def by_order(entries: list[RowEntry], block: int) -> dict[Order, list[RowEntry]]:
    """The entries of each decode order, in the order in which they were named."""
    orders: dict[Order, list[RowEntry]] = {}
    for entry in entries:
        orders.setdefault(entry.order(block), []).append(entry)
    return orders


def _entry(spec: str) -> RowEntry:
    name, _, rest = spec.partition(":")
    options: dict[str, Any] = read_options(rest, spec)
    method = diffusion_lm.make(name, **options)
    return RowEntry(" ".join([method.name, *(f"{key}={value}" for key, value in options.items())]), method)
