"""`changes`: distances and inner products of two tensors, in one pass over both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dcache.errors import DcacheError
from dcache.kernels import launch
from dcache.kernels.changes import reference
from dcache.kernels.changes.reference import SUMS

__all__ = ["SUMS", "Sums", "changes", "relative_change"]


@dataclass(frozen=True, eq=False, slots=True)
class Sums:
    """Sums over two tensors, on their device; reading a number is a device sync.

    Attributes:
        names: names of the sums.
        values: one tensor of shape (*lead,) for each sum, float32, or float64 if an input is.
        count: number of elements in each sum.
    """

    names: Sequence[str]
    values: Sequence[torch.Tensor]
    count: int

    def __getitem__(self, name: str) -> torch.Tensor:
        """One sum, of shape (*lead,)."""
        return self.values[self.names.index(name)]

    def mean(self, name: str) -> torch.Tensor:
        """One sum divided by the number of elements."""
        return self[name] / self.count

    def relative(self) -> torch.Tensor:
        """Relative L1 change, mean|x - y| / mean|y|, of shape (*lead,)."""
        return self.mean("distance") / self.mean("length")


def changes(x: torch.Tensor, y: torch.Tensor, names: Sequence[str] = SUMS, lead: int = 0) -> Sums:
    """Sums over x and y: one total, or one sum for every index of their leading dimensions.

    `distance` is sum|x - y|, `length` sum|y|, `square` sum(x - y)^2; `xy`, `xx` and `yy` are inner products.
    A sum over NaN or infinity is not finite. Equal inputs give equal bits.

    Args:
        x: any real dtype.
        y: of x's shape and device; the dtypes may differ.
        names: names of the sums. The kernel computes all of them, since it reads the same bytes.
        lead: number of leading dimensions that are not summed over: 0 for one total, 1 for one sum per row of
            the batch, 2 for one per token of (B, N, D).

    Raises:
        DcacheError: shapes differ, a dtype is complex, or a name or `lead` is not valid.
    """
    _check(x, y, names, lead)
    x, y = in_memory_order(x.detach(), y.detach(), lead)
    count = x.shape[lead:].numel()
    if launch.possible(x.device) and launch.taken("changes", x, y):
        from dcache.kernels.changes import triton

        shape = x.shape[:lead]
        x, y = (t.reshape(shape.numel(), count) for t in (x, y))
        return Sums(SUMS, [total.view(shape) for total in triton.changes(x, y).unbind()], count)
    return Sums(names, reference.changes(x, y, names, lead), count)


def relative_change(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Relative L1 change of all of x to all of y, mean|x - y| / mean|y|, as a tensor of no dimensions.

    On a CPU the bits are those of `(x - y).abs().mean() / y.abs().mean()` in float32, up to `reference.PIECE`
    elements.
    """
    return changes(x, y, ("distance", "length")).relative()


def _check(x: torch.Tensor, y: torch.Tensor, names: Sequence[str], lead: int) -> None:
    if x.shape != y.shape:
        raise DcacheError(f"changes: two tensors of one shape are compared, got {_shape(x)} and {_shape(y)}")
    if x.is_complex() or y.is_complex():
        raise DcacheError(f"changes: real dtypes are compared, got {x.dtype} and {y.dtype}")
    if not 0 <= lead <= x.ndim:
        raise DcacheError(f"changes: lead is 0 to {x.ndim}, the dimensions of {_shape(x)}, got {lead}")
    for name in names:
        if name not in SUMS:
            raise DcacheError(f"changes: no sum is called {name!r}; there are {', '.join(SUMS)}")


def in_memory_order(x: torch.Tensor, y: torch.Tensor, lead: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Both tensors with the summed dimensions in memory order of x, so that channels_last needs no copy."""
    if x.is_contiguous():
        return x, y
    summed = sorted(range(lead, x.ndim), key=x.stride, reverse=True)
    order = [*range(lead), *summed]
    return x.permute(order), y.permute(order)


def _shape(x: torch.Tensor) -> tuple[int, ...]:
    return tuple(x.shape)
