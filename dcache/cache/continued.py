"""The part of a model's input that its output continues, where the two differ in size.

A denoiser may be given more than the sample: the channels of a mask, a picture to start from, or reference
tokens, all behind the sample (inpainting, image-to-video, editing). It may return more than the sample: the
channels of a learned variance.

| input           | output          | continued                        |
|-----------------|-----------------|----------------------------------|
| (B, 9, H, W)    | (B, 4, H, W)    | the first 4 channels             |
| (B, N + M, D)   | (B, N, D)       | the first N tokens               |
| (B, N, 2 D)     | (B, N, D)       | the first D channels             |
| (B, 4, H, W)    | (B, 8, H, W)    | all, and zeros for the variance  |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

# (B, tokens, channels): reference tokens and channels of a condition may come together.
_TOKENS = 3


def continues(shape: Sequence[int], entry: Sequence[int]) -> bool:
    """Whether an output of this shape continues an input of the shape `entry`.

    Both have as many dimensions and rows, and differ in one dimension at most, tokens in both of theirs.
    """
    if len(shape) != len(entry):
        return False
    if len(shape) < 2:
        return tuple(shape) == tuple(entry)
    differing = sum(a != b for a, b in zip(shape[1:], entry[1:], strict=True))
    return shape[0] == entry[0] and (len(shape) == _TOKENS or differing <= 1)


def cut(entry: torch.Tensor, output: Any) -> torch.Tensor:
    """A view of the part of an input that an output continues; all of it where the output continues none.

    Args:
        entry: the input, (B, ...).
        output: the output, or its shape.
    """
    shape = getattr(output, "shape", output)
    if shape is None or entry.shape == shape or not continues(shape, entry.shape):
        return entry
    if all(had <= size for had, size in zip(entry.shape, shape, strict=True)):
        return entry
    return entry[tuple([slice(size) for size in shape])]


def continued(entry: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """An input as the output of a shape continues it: cut, and filled with zeros where the output has more.

    Args:
        entry: the input, (B, ...), of which an output of this shape `continues` a part.
        shape: the output's.

    Returns:
        A tensor of that shape: the input itself, a view of it, or a copy.
    """
    if entry.shape == shape:
        return entry
    part = cut(entry, shape)
    missing = [size - had for size, had in zip(shape, part.shape, strict=True)]
    # From the last dimension to the first, a pair for each: nothing before, the rest behind.
    pairs = [n for rest in reversed(missing) for n in (0, rest)]
    return functional.pad(part, pairs) if any(missing) else part
