"""`Packed`: a quantised tensor with one byte per element and one float32 scale per row.

A row is the smallest number of trailing dimensions with at least 64 elements: a token, several lines of a
small feature map, or all of a smaller tensor. Scales are symmetric: the largest magnitude of a row maps to
the largest number of the stored dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

# Stored dtype -> its largest number, to which the largest magnitude of a row maps.
LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
_ROW = 64


@dataclass(frozen=True, eq=False, slots=True)
class Packed:
    """A quantised tensor: `data * scale`, row by row.

    Rows of zeros have scale 0. A row with NaN or infinity has scale NaN and unpacks to NaN.

    Attributes:
        data: of the tensor's shape, contiguous, int8 or float8_e4m3fn.
        scale: (G,), float32: one for every `data.numel() / G` elements in memory order.
        dtype: the tensor's dtype before quantisation.
    """

    data: torch.Tensor
    scale: torch.Tensor
    dtype: torch.dtype

    @classmethod
    def empty(cls, like: torch.Tensor, store: torch.dtype) -> Packed:
        """Uninitialised memory for a tensor of this shape, dtype and device.

        Args:
            like: a tensor of that shape, dtype and device.
            store: int8 or float8_e4m3fn.
        """
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
        """The tensor's device."""
        return self.data.device

    def numel(self) -> int:
        """Number of elements."""
        return self.data.numel()

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`data` and `scale`, for counting bytes."""
        return self.data, self.scale

    def scaled(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Two float32 tensors whose product is the unpacked tensor; the second one is broadcast."""
        leading = self.shape[: _leading(self.shape)]
        scale = self.scale.view((*leading, *[1] * (self.ndim - len(leading))))
        if self.data.dtype != torch.float8_e4m3fn:
            return self.data.to(torch.float32), scale
        # The bits, shifted and read as float16, are the number / 256. On CPUs torch's cast is ten times
        # slower.
        bits = self.data.view(torch.int8).to(torch.int16).bitwise_left_shift_(7).bitwise_and_(~(1 << 14))
        return bits.view(torch.float16).to(torch.float32), scale * 256

    def float32(self) -> torch.Tensor:
        """The unpacked tensor, new, float32."""
        wide, scale = self.scaled()
        return wide.mul_(scale)

    def to(self, dtype: torch.dtype) -> torch.Tensor:
        """The unpacked tensor, new, of this dtype."""
        return self.float32().to(dtype)

    def by_row(self, tensor: torch.Tensor) -> torch.Tensor:
        """A view of a contiguous tensor of this shape as (G, elements of a row)."""
        return tensor.view(self.scale.numel(), self.shape[_leading(self.shape) :].numel())

    def clone(self) -> Packed:
        """A copy."""
        return Packed(self.data.clone(), self.scale.clone(), self.dtype)

    def __getitem__(self, part: slice) -> Packed:
        """Rows `part` of dimension 0, as a view."""
        # A single scale belongs to every part; otherwise each index of dimension 0 has the same number of
        # scales.
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
    """The number of leading dimensions, outside of a row."""
    inside, row = 0, 1
    while inside < len(shape) and row < _ROW:
        inside += 1
        row *= shape[-inside]
    return len(shape) - inside
