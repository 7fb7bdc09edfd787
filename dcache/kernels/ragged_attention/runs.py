"""How many tokens each run has, on the device and on the host, and its pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from dcache.kernels.lowbit.format import group_rows


@dataclass(frozen=True, eq=False)
class Pieces:
    """Runs cut into pieces of equal length, the last of a run shorter.

    Attributes:
        run: int64 `[pieces]`, each piece's run.
        start: int64 `[pieces]`, its first token.
        count: int64 `[pieces]`, its tokens.
        of_run: int64 `[R]`, pieces of each run.
    """

    run: torch.Tensor
    start: torch.Tensor
    count: torch.Tensor
    of_run: torch.Tensor


@dataclass(frozen=True, eq=False)
class Runs:
    """Lengths of runs that are read again and again, whose sizes are copied to the host once.

    Args:
        lengths: int64 `[R]`.
    """

    lengths: torch.Tensor
    _pieces: dict[int, Pieces] = field(default_factory=dict)

    @classmethod
    def of(cls, sizes: Sequence[int], device: torch.device) -> Runs:
        """Runs of sizes that are known on the host."""
        runs = cls(torch.tensor(sizes, dtype=torch.long, device=device))
        runs.__dict__["sizes"] = list(sizes)
        return runs

    @cached_property
    def sizes(self) -> list[int]:
        """Tokens of each run."""
        sizes: list[int] = self.lengths.tolist()
        return sizes

    @cached_property
    def total(self) -> int:
        """Tokens of all runs."""
        return sum(self.sizes)

    @cached_property
    def uniform(self) -> bool:
        """Whether all runs have equally many tokens."""
        return len(set(self.sizes)) <= 1

    @cached_property
    def starts(self) -> torch.Tensor:
        """int64 `[R]`, each run's first token."""
        return self.lengths.cumsum(0) - self.lengths

    def pieces(self, size: int) -> Pieces:
        """Pieces of this many tokens; made once."""
        if size not in self._pieces:
            start, count = group_rows(self.lengths, size)
            of_run = -(-self.lengths // size)
            run = torch.arange(len(self.lengths), device=self.lengths.device).repeat_interleave(of_run)
            self._pieces[size] = Pieces(run, start, count, of_run)
        return self._pieces[size]
