"""Streams that a model regroups between its blocks: from tokens of each frame to frames of each token.

Latte's spatial blocks are given (batch x frames, tokens, channels), its temporal blocks (batch x tokens,
frames, channels). A run from one to the other continues its input all the same, in the other grouping.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def regroup(x: torch.Tensor, size: int) -> torch.Tensor:
    """The stream in the other grouping: (G * size, N, C) -> (G * N, size, C).

    Args:
        x: the stream.
        size: members of a group of the first dimension, the later second dimension.
    """
    groups = x.shape[0] // size
    apart = x.reshape(groups, size, *x.shape[1:])
    return apart.transpose(1, 2).reshape(groups * x.shape[1], size, *x.shape[2:])


def regrouped_size(before: Sequence[int], after: Sequence[int]) -> int | None:
    """The `size` by which a stream of one shape becomes one of another; None if none does."""
    if len(before) < 3 or len(before) != len(after) or tuple(before[2:]) != tuple(after[2:]):
        return None
    size = after[1]
    if not size or before[0] % size or before[0] // size * before[1] != after[0]:
        return None
    return size
