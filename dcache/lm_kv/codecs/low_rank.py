"""Groups of tokens as sums of few directions: one small matrix for each group, few numbers for each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch

from dcache.kernels.lowbit.format import group_rows, groups_of, regroup

# Rounds of the power iteration.
ROUNDS = 3


@dataclass(frozen=True, eq=False)
class LowRank:
    """Tokens `[N, D]` as `left[i] @ right[group of i]`.

    Attributes:
        left: float16 `[N, r]`.
        right: float16 `[groups, r, D]`.
        lengths: int64 `[runs]`, tokens of each run; a group is `group` tokens of one run.
        group: tokens of a group.
        index: int32 `[N]`, each token's group, where tokens were taken out of theirs; None where groups
            follow from `lengths`.
        fixed: whether `right` is a calibration's, the same for all texts; then nothing is left out of it.
    """

    left: torch.Tensor
    right: torch.Tensor
    lengths: torch.Tensor
    group: int
    index: torch.Tensor | None = None
    fixed: bool = False

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor that is held, by name."""
        tensors = {"left": self.left, "right": self.right, "lengths": self.lengths}
        return tensors if self.index is None else {**tensors, "index": self.index}

    def groups(self) -> torch.Tensor:
        """int64 `[N]`, each token's row in `right`."""
        return groups_of(self.lengths, self.group) if self.index is None else self.index.long()

    def add_to(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add the products to float32 `[N, D]`, in place."""
        groups = self.groups()
        # Direction by direction: the matrices of all tokens would be `r` times as large as these.
        for direction in range(self.left.shape[1]):
            tokens.addcmul_(
                self.left[:, direction, None].to(tokens.dtype),
                self.right[:, direction].to(tokens.dtype)[groups],
            )
        return tokens

    def take(self, rows: torch.Tensor, lengths: torch.Tensor) -> LowRank:
        """Tokens by index, in this order, which make runs of these lengths."""
        groups = self.groups()[rows]
        if self.fixed:
            return replace(self, left=self.left[rows], lengths=lengths, index=groups.int())
        source, index = regroup(groups, lengths, self.group)
        return replace(self, left=self.left[rows], right=self.right[source], lengths=lengths, index=index)


def join(parts: Sequence[LowRank], order: torch.Tensor, lengths: torch.Tensor) -> LowRank:
    """Tokens of several parts, one after the other and then in this order, as one."""
    fixed = parts[0].fixed
    starts = [0]
    for part in parts[:-1]:
        starts.append(0 if fixed else starts[-1] + len(part.right))
    groups = torch.cat([part.groups() + start for part, start in zip(parts, starts, strict=True)])
    whole = replace(
        parts[0],
        left=torch.cat([part.left for part in parts]),
        right=parts[0].right if fixed else torch.cat([part.right for part in parts]),
        index=groups.int(),
    )
    return whole.take(order, lengths)


def low_rank(tokens: torch.Tensor, rank: int, group: int, lengths: torch.Tensor) -> LowRank:
    """Project each group's tokens on its `rank` strongest directions, found by a power iteration.

    Args:
        tokens: float32 or float64 `[N, D]`.
        rank: directions of a group; at most D are taken.
        group: tokens of a group.
        lengths: int64 `[runs]`, tokens of each run; they sum to N.
    """
    first, count = group_rows(lengths, group)
    slots = torch.arange(int(count.max()) if len(count) else 0, device=tokens.device)
    valid = slots < count[:, None]
    places = first[:, None] + slots.minimum(count[:, None] - 1)
    padded = tokens[places] * valid[..., None]
    directions = _start(tokens.shape[1], min(rank, tokens.shape[1])).to(tokens)
    directions = directions.expand(len(padded), *directions.shape)
    for _ in range(ROUNDS):
        directions = torch.linalg.qr(padded.mT @ (padded @ directions)).Q
    left = tokens.new_empty(len(tokens), directions.shape[2])
    left[places[valid]] = (padded @ directions)[valid]
    return LowRank(left.half(), directions.mT.half().contiguous(), lengths, group)


@cache
def _start(channels: int, rank: int) -> torch.Tensor:
    """The directions that every iteration begins with, `[channels, rank]`, the same everywhere."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(channels, rank, generator=generator, dtype=torch.float32, device="cpu")
