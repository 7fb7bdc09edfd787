"""What a model's projection makes keys or values of all heads of: a layer's input, or its latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Latent:
    """A projection W = U S B^T of a layer's input X: X U are the latents, and X W = (X U) S B^T.

    Attributes:
        heads: how many heads the keys or values are of.
        sizes: float32 `[r]`, the singular values S, none of them 0.
        vectors: `[r, h * d]`, B^T.
        bias: `[h * d]` that the projection adds; None for none.
    """

    heads: int
    sizes: torch.Tensor
    vectors: torch.Tensor
    bias: torch.Tensor | None = None

    @property
    def size(self) -> int:
        """Numbers of a token, r."""
        return len(self.sizes)

    def of(self, states: torch.Tensor) -> torch.Tensor:
        """Latents `[T, r]` of keys before rotation, or values, of all heads `[T, h * d]`; X is not needed."""
        centred = states if self.bias is None else states - self.bias.to(states)
        return centred @ self.vectors.to(states).T / self.sizes.to(states)

    def states(self, latents: torch.Tensor) -> torch.Tensor:
        """The inverse of `of`."""
        made = latents * self.sizes.to(latents) @ self.vectors.to(latents)
        return made if self.bias is None else made + self.bias.to(latents)


@dataclass(frozen=True, eq=False)
class Linear:
    """A projection W of a layer's input X, of which X itself is stored.

    Attributes:
        heads: how many heads the keys or values are of.
        weight: `[h * d, D]`, the model's.
        bias: `[h * d]` that the projection adds; None for none.
        directions: float32 or better `[D, r]`, orthonormal: those of X on which the layer's keys and values
            depend, for codecs that store X along them; None for all of X.
        shared: whether several query heads share a head.
    """

    heads: int
    weight: torch.Tensor
    bias: torch.Tensor | None = None
    directions: torch.Tensor | None = None
    shared: bool = False

    @property
    def size(self) -> int:
        """Numbers of a token, D."""
        return self.weight.shape[1]

    def states(self, inputs: torch.Tensor) -> torch.Tensor:
        """Keys before rotation, or values, of all heads `[T, h * d]`, of inputs `[T, D]`."""
        return F.linear(inputs.to(self.weight.dtype), self.weight, self.bias)


def latent_of(weight: torch.Tensor, bias: torch.Tensor | None, heads: int) -> Latent:
    """The latent of a linear layer with this weight `[h * d, D]` and bias, of so many heads."""
    wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    _, sizes, vectors = torch.linalg.svd(wide.T, full_matrices=False)
    kept = sizes > sizes.amax() * 1e-6
    # Numbers of at most 1, which float16 has more digits of than bfloat16.
    dtype = torch.float16 if weight.dtype.itemsize < 4 else weight.dtype
    shift = None if bias is None else bias.detach()
    return Latent(heads, sizes[kept], vectors[kept].to(dtype), shift)
