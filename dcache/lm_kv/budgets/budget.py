"""The budget of a cache: a share of each row's true tokens, or a number of tokens per KV head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from dcache.errors import DcacheError
from dcache.util.checks import is_number, is_whole, plain


@dataclass(frozen=True)
class Budget:
    """How many tokens each KV head keeps on average.

    Args:
        size: a float in (0, 1], the share of a row's true tokens (pads do not count), or an int of at least
            1, tokens per KV head. `1.0` is all of them, `1` is one token.
        name: what it is called in a message.

    Raises:
        DcacheError: it is neither.

    >>> Budget(0.25).tokens([10, 401])
    [2, 100]
    >>> Budget(64).tokens([10, 401])
    [10, 64]
    """

    size: float
    name: str = field(default="budget", compare=False)

    def __post_init__(self) -> None:
        """Refuse what is no budget; numbers of NumPy or torch become Python's."""
        object.__setattr__(self, "size", plain(self.size))
        if is_whole(self.size) and self.size >= 1:
            return
        if is_number(self.size) and isinstance(self.size, float) and 0.0 < self.size <= 1.0:
            return
        raise DcacheError(
            f"{self.name} must be a float in (0, 1], a share of each row's tokens, or an int of at least 1, "
            f"tokens per KV head, got {self.size!r}. Write 0.25 for a quarter, 1.0 for all tokens, 1 for "
            "one token."
        )

    def tokens(self, seen: Sequence[int]) -> list[int]:
        """Tokens that each KV head of a row may keep, for rows that have seen so many; shares round down."""
        if isinstance(self.size, int):
            return [min(self.size, count) for count in seen]
        # 0.29 * 100 is 28.999...: products within rounding of a whole number are that number.
        return [min(count, max(1, math.floor(count * self.size + 1e-9))) for count in seen]

    @property
    def whole(self) -> float:
        """The most tokens of a row that always fit: the number of tokens; of shares, all or none."""
        if isinstance(self.size, int):
            return self.size
        return math.inf if self.size == 1.0 else 0.0

    def __str__(self) -> str:
        if isinstance(self.size, int):
            return f"{self.size} token{'s' if self.size > 1 else ''} per KV head"
        return f"{self.size:.4g} of each row's tokens"
