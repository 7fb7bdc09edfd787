"""Least squares of outputs on predictions, channel by channel: y ~ scale * p + shift, from five sums."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dcache.predictors.corrections import Correction

# Variances below this share of the mean square are rounding.
_FLAT = 1e-12


@dataclass
class Sums:
    """Sums over n pairs of prediction p and output y, per channel.

    Attributes:
        n: number of pairs per channel.
        moments: (5, C) float64, sums of p, y, p p, p y, y y.
        anchor: evaluation of the newest anchor.
        dim: dimension of the channels in the output.
    """

    n: int
    moments: torch.Tensor
    anchor: int
    dim: int

    @staticmethod
    def of(p: torch.Tensor, y: torch.Tensor, anchor: int) -> Sums:
        """Sums of a prediction `p` and the computed output `y`, tensors of one shape."""
        # Channels are last in tokens, and second in pictures, clips and feature maps.
        dim = 1 if y.ndim > 3 else -1
        # Some accelerators have no float64: sum on the CPU there.
        p, y = (x if x.is_cuda else x.cpu() for x in (p, y))
        p, y = (x.movedim(dim, -1).reshape(-1, x.shape[dim]).double() for x in (p, y))
        moments = torch.stack([x.sum(0) for x in (p, y, p * p, p * y, y * y)])
        return Sums(len(p), moments.cpu(), anchor, dim)

    def __add__(self, other: Sums) -> Sums:
        """Sums over both sets of pairs."""
        return Sums(self.n + other.n, self.moments + other.moments, self.anchor, self.dim)

    def solve(self, published: bool) -> tuple[Correction, torch.Tensor]:
        """The correction; and (3,) sums: squared error without it, with it, and the variance."""
        p, y, pp, py, yy = self.moments / self.n
        var, cov = pp - p * p, py - p * y
        flat = var <= _FLAT * pp
        scale = torch.where(flat, 1.0, cov / torch.where(flat, 1.0, var))
        if published:
            scale = torch.where(flat, 1.0, scale * (self.n - 1) / self.n)
        shift = y - scale * p

        def error(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            square = yy + a * a * pp + b * b - 2 * a * py - 2 * b * y + 2 * a * b * p
            return (square * self.n).sum()

        ones, zeros = torch.ones_like(scale), torch.zeros_like(shift)
        sums = torch.stack([error(ones, zeros), error(scale, shift), ((yy - y * y) * self.n).sum()])
        return Correction(scale.float(), shift.float(), self.anchor), sums
