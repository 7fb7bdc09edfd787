"""Parsing of `--policies`: row policies with their options, and the decode order of each.

>>> [(entry.label, entry.order(16).text) for entry in parse("dual:block=4;window:window=8")]
[('dual block=4', 'block 4'), ('window window=8', 'block 16, window 8')]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dcache import diffusion_lm
from dcache.diffusion_lm import RowMethod
from dcache.eval.policy_list import Labelled, read_policies
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
class RowEntry(Labelled):
    """A policy to measure.

    Attributes:
        method: the policy.
    """

    method: RowMethod

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
    return read_policies(text, _entry, diffusion_lm.available(), "dual:block=8;dkv")


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
