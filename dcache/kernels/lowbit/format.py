"""`LowBit`: tokens of few bits a number, with float16 steps and lows for groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

BITS = (2, 3, 4, 8)
# One of three levels, five numbers to a byte.
TERNARY = 1.6
# Formats whose levels lie around zero: -m and m, or -m, 0 and m, for m the mean size of a group's numbers.
SYMMETRIC = (1, TERNARY)


@dataclass(frozen=True, eq=False, slots=True)
class LowBit:
    """A tensor `[N, D]` as codes: `low + code * step`, group by group.

    Per token, a group is `group` channels of one token. Per channel, it is `group` tokens of one run in one
    channel: run r has `lengths[r]` tokens, one run after the other, and its last group may be smaller. A
    group with a number beyond float16, or with NaN, unpacks to numbers that are not finite.

    Attributes:
        codes: uint8 `[N, row_bytes(D, bits)]`; each token's codes are one stream of bits, lowest bits first,
            or of bytes with five digits of three each, the lowest first.
        step: float16 `[N, ceil(D / group)]` per token, `[groups, D]` per channel.
        low: float16, of the same shape: the number whose code is 0. None for symmetric formats, where it
            follows from the step.
        bits: of a code; 1.6 for numbers of three levels.
        group: tokens or channels that share a step.
        channels: D.
        dtype: the tensor's.
        lengths: int64 `[R]` per channel, None per token.
        index: int32 `[N]`, each token's group, where tokens were taken out of theirs; None where groups
            follow from `lengths`, and per token.
    """

    codes: torch.Tensor
    step: torch.Tensor
    low: torch.Tensor | None
    bits: float
    group: int
    channels: int
    dtype: torch.dtype
    lengths: torch.Tensor | None = None
    index: torch.Tensor | None = None

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor that is held, by name."""
        optional = {"low": self.low, "lengths": self.lengths, "index": self.index}
        present = {name: tensor for name, tensor in optional.items() if tensor is not None}
        return {"codes": self.codes, "step": self.step, **present}

    def groups(self) -> torch.Tensor:
        """int64 `[N]`, each token's row in `step` and `low`."""
        if self.index is not None:
            return self.index.long()
        if self.lengths is None:
            return torch.arange(len(self.codes), device=self.codes.device)
        return groups_of(self.lengths, self.group)

    def take(self, rows: torch.Tensor, lengths: torch.Tensor) -> LowBit:
        """Tokens by index, in this order, as often as named; no code changes.

        Args:
            rows: int64 `[M]`.
            lengths: int64 `[runs]`, tokens of each run among them.
        """
        if self.lengths is None:
            return replace(self, codes=self.codes[rows], step=self.step[rows], low=_rows(self.low, rows))
        return self._regrouped(self.codes[rows], self.groups()[rows], lengths)

    def _regrouped(self, codes: torch.Tensor, groups: torch.Tensor, lengths: torch.Tensor) -> LowBit:
        """These codes, whose steps are rows `groups` of this tensor's; steps that none needs are left out."""
        lengths = lengths.flatten()
        source, index = regroup(groups, lengths, self.group)
        low = _rows(self.low, source)
        return replace(self, codes=codes, step=self.step[source], low=low, lengths=lengths, index=index)


def join(parts: Sequence[LowBit], order: torch.Tensor, lengths: torch.Tensor) -> LowBit:
    """Tensors of one format as one: their tokens one after the other, taken in this order; no code changes.

    Args:
        parts: the tensors.
        order: int64 `[N of all]`.
        lengths: int64 `[runs]`, tokens of each run in that order.
    """
    first = parts[0]
    codes, step = (torch.cat([getattr(p, name) for p in parts]) for name in ("codes", "step"))
    lows = [part.low for part in parts if part.low is not None]
    low = torch.cat(lows) if lows else None
    if first.lengths is None:
        return replace(first, codes=codes[order], step=step[order], low=_rows(low, order))
    starts = [0]
    for part in parts[:-1]:
        starts.append(starts[-1] + len(part.step))
    groups = torch.cat([part.groups() + start for part, start in zip(parts, starts, strict=True)])
    whole = replace(first, codes=codes, step=step, low=low)
    return whole._regrouped(codes[order], groups[order], lengths)


def row_bytes(channels: int, bits: float) -> int:
    """Bytes of one token's codes.

    >>> row_bytes(64, 2), row_bytes(64, 1), row_bytes(64, TERNARY)
    (16, 8, 13)
    """
    return -(-channels // 5) if bits == TERNARY else -(-channels * int(bits) // 8)


def _rows(tensor: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor | None:
    return None if tensor is None else tensor[rows]


def groups_of(lengths: torch.Tensor, group: int) -> torch.Tensor:
    """int64 `[N]`, each token's group, where every run begins a new one.

    >>> groups_of(torch.tensor([3, 0, 2]), 2).tolist()
    [0, 0, 1, 2, 2]
    """
    starts, firsts = _starts(lengths), _starts(-(-lengths // group))
    run = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    inside = torch.arange(len(run), device=lengths.device) - starts[run]
    return firsts[run] + inside // group


def regroup(
    groups: torch.Tensor, lengths: torch.Tensor, group: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Which groups tokens need, as few as there are, and which of these each token is of.

    Args:
        groups: int64 `[N]`, each token's group as it was.
        lengths: int64 `[runs]`, tokens of each run.
        group: tokens of a group.

    Returns:
        int64, the groups that are needed, and int32 `[N]`, each token's among them; None where that is
        `groups_of(lengths, group)`.
    """
    place = groups_of(lengths, group)
    source = groups.new_zeros(int(place[-1]) + 1 if len(place) else 0)
    source[place] = groups
    if torch.equal(source[place], groups):
        return source, None
    # Tokens of one place come from several groups.
    source, inverse = torch.unique(groups, return_inverse=True)
    return source, inverse.int()


def group_rows(lengths: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first token and the number of tokens of each group, int64 `[groups]` each."""
    count = -(-lengths // group)
    run = torch.arange(len(lengths), device=lengths.device).repeat_interleave(count)
    inside = (torch.arange(len(run), device=lengths.device) - _starts(count)[run]) * group
    return _starts(lengths)[run] + inside, (lengths[run] - inside).clamp_max(group)


def _starts(counts: torch.Tensor) -> torch.Tensor:
    return counts.cumsum(0) - counts
