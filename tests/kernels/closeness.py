"""How near a sum must come to float64 arithmetic, in one place."""

from __future__ import annotations

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Of the sum of the terms' magnitudes: float32 accumulation of a few terms, each rounded.
ACCUMULATION = 4 * torch.finfo(torch.float32).eps


def assert_near(name: str, found: torch.Tensor, terms: list[torch.Tensor], path: str = "reference") -> None:
    """`found` is the terms' sum (float64 tensors of its shape), accumulated in float32 and rounded once.

    Triton's interpreter truncates float32 to bfloat16 where a GPU rounds: it is given a whole last place.
    """
    exact = torch.stack(terms).sum(0)
    truncated = path == "on" and found.dtype == torch.bfloat16 and DEVICE == "cpu"
    last = torch.finfo(found.dtype).eps * (1.0 if truncated else 0.5)
    small = torch.finfo(found.dtype).smallest_normal * torch.finfo(found.dtype).eps
    allowed = last * exact.abs() + ACCUMULATION * torch.stack(terms).abs().sum(0) * (1 + last) + small
    off = (found.double() - exact).abs()
    assert found.shape == exact.shape, name
    assert bool((off <= allowed).all()), (
        f"{name}: off by up to {(off / allowed).max():.2f} of what is allowed"
    )
