"""`Packed`: a tensor in one byte per element, with one float32 scale per row.

A row is as many trailing dimensions as hold at least 64 elements: one scale per token, several lines of a
small map together, one scale for all of a tensor that is smaller. Scales are symmetric: the largest magnitude
of a row becomes the largest of the stored dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

# The stored dtypes, and the magnitude that the largest element of a row is given.
LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
_ROW = 64


@dataclass(frozen=True, eq=False, slots=True)
class Packed:
    """A quantised tensor: `data * scale`, row by row.

    Rows of zeros have scale 0. A row that held NaN or infinity has scale NaN and unpacks to NaN.

    Attributes:
        data: the tensor's shape, contiguous, int8 or float8_e4m3fn.
        scale: (G,), float32: one for every `data.numel() / G` elements in order.
        dtype: what it stands for.
    """

    data: torch.Tensor
    scale: torch.Tensor
    dtype: torch.dtype

    @classmethod
    def empty(cls, like: torch.Tensor, store: torch.dtype) -> Packed:
        """Memory for a tensor of this shape, dtype and device, not yet written."""
        data = torch.empty(like.shape, dtype=store, device=like.device)
        scale = torch.empty(groups(like.shape), dtype=torch.float32, device=like.device)
        return cls(data, scale, like.dtype)

    @property
    def shape(self) -> torch.Size:
        """The tensor's shape."""
        return self.data.shape

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.data.ndim

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.data.device

    def numel(self) -> int:
        """Number of elements."""
        return self.data.numel()

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What it holds, for counting bytes."""
        return self.data, self.scale

    def scaled(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Two float32 tensors whose product is the unpacked one: of its shape, and broadcastable to it."""
        leading = self.shape[: _leading(self.shape)]
        scale = self.scale.view((*leading, *[1] * (self.ndim - len(leading))))
        if self.data.dtype != torch.float8_e4m3fn:
            return self.data.to(torch.float32), scale
        # Its bits, read as float16, are a 256th of the number. torch's own cast is ten times slower on CPUs.
        bits = self.data.view(torch.int8).to(torch.int16).bitwise_left_shift_(7).bitwise_and_(~(1 << 14))
        return bits.view(torch.float16).to(torch.float32), scale * 256

    def float32(self) -> torch.Tensor:
        """Unpacked, as a new float32 tensor."""
        wide, scale = self.scaled()
        return wide.mul_(scale)

    def to(self, dtype: torch.dtype) -> torch.Tensor:
        """Unpacked, as a new tensor of this dtype."""
        return self.float32().to(dtype)

    def by_row(self, tensor: torch.Tensor) -> torch.Tensor:
        """A contiguous tensor of this shape seen as (G, elements of a row)."""
        return tensor.view(self.scale.numel(), self.shape[_leading(self.shape) :].numel())

    def clone(self) -> Packed:
        """A copy in memory of its own."""
        return Packed(self.data.clone(), self.scale.clone(), self.dtype)

    def __getitem__(self, part: slice) -> Packed:
        """Rows `part` of dimension 0, as a view."""
        # One scale for all belongs to every part; otherwise as many to each index of dimension 0.
        each = self.scale.numel() // max(self.shape[0], 1)
        start, stop, _ = part.indices(self.shape[0])
        scale = self.scale if not each else self.scale[start * each : max(start, stop) * each]
        return Packed(self.data[start:stop], scale, self.dtype)

    def chunk(self, count: int) -> list[Packed]:
        """Views of `count` equal parts along dimension 0."""
        each = -(-self.shape[0] // count)
        return [self[i : i + each] for i in range(0, self.shape[0], each)]


Stored = torch.Tensor | Packed


def groups(shape: torch.Size) -> int:
    """Number of rows, and so of scales, of a tensor of this shape."""
    return shape[: _leading(shape)].numel()


def _leading(shape: torch.Size) -> int:
    """The number of dimensions that count rows; the others are within one."""
    inside, row = 0, 1
    while inside < len(shape) and row < _ROW:
        inside += 1
        row *= shape[-inside]
    return len(shape) - inside
