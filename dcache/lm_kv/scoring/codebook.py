"""Keys by the nearest of few codewords, near in the dot products with a text's queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.scoring.observers import State
from dcache.lm_kv.scoring.selectors import ByItself, Index

# Rounds of Lloyd's algorithm.
ROUNDS = 10


@dataclass(frozen=True)
class Codebook(ByItself):
    """A2ATS: a token's logit is that of its codeword, at one distance for all tokens.

    A key k belongs to the codeword c with the least (k - c)^T H (k - c), where H is the mean of q q^T over
    the last queries of the group's heads: the mean square of the error of q . k. The policy's observer must
    be `QueryWindow`.

    Args:
        codes: codewords of a head; at least 1.
        distance: as in `Selector`.
    """

    codes: int = 256
    distance: int | None = 256
    page: ClassVar[int] = 1
    reads_attention: ClassVar[bool] = False

    def index(self, keys: torch.Tensor, valid: torch.Tensor, state: State) -> Index:
        """`codebook` `[B, h, codes, d]` in the keys' dtype and `codes` int16 `[B, h, n]`."""
        if "query" not in state:
            raise DcacheError("Codebook reads the last queries: give its policy a QueryWindow observer")
        points = keys.to(torch.promote_types(keys.dtype, torch.float32))
        moved = points @ query_factor(state["query"], state["valid"], keys.shape[1]).to(points.dtype)
        codes = nearest_codes(moved.flatten(0, 1), valid.flatten(0, 1), self.codes)
        codebook = means_of(points.flatten(0, 1), codes, valid.flatten(0, 1), self.codes)
        shape = keys.shape[:2]
        return {
            "codebook": codebook.to(keys.dtype).unflatten(0, shape),
            "codes": codes.to(torch.int16).unflatten(0, shape),
        }

    def products(self, query: torch.Tensor, index: Index) -> torch.Tensor:
        """Dot products with the tokens' codewords."""
        products = query @ index["codebook"].to(query.dtype).mT
        codes = index["codes"].long()[:, :, None].expand(-1, -1, query.shape[2], -1)
        return products.gather(-1, codes)


def query_factor(query: torch.Tensor, valid: torch.Tensor, heads: int) -> torch.Tensor:
    """L with L L^T = H, `[B, h, d, d]`, H the mean of q q^T over valid queries `[B, H, W, d]`.

    A thousandth of H's mean diagonal is added to it, so that no direction is without weight.
    """
    counted = query.to(torch.promote_types(query.dtype, torch.float32)) * valid[:, None, :, None]
    grouped = counted.unflatten(1, (heads, -1)).flatten(2, 3)
    moments = grouped.mT @ grouped / valid.sum(1).clamp_min(1)[:, None, None, None]
    size = moments.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    unit = torch.eye(query.shape[3], dtype=moments.dtype, device=query.device)
    return torch.linalg.cholesky(moments + (1e-3 * size + 1e-12) * unit)


def nearest_codes(points: torch.Tensor, valid: torch.Tensor, count: int) -> torch.Tensor:
    """Lloyd's algorithm, each run by itself; int64 `[R, n]`, each point's codeword, of equal ones the lowest.

    Args:
        points: `[R, n, d]`.
        valid: bool `[R, n]`, a run's points in front; others get some codeword.
        count: codewords; they begin at points evenly spaced in the run.
    """
    lengths = valid.sum(1, keepdim=True)
    first = torch.arange(count, device=points.device)[None] * lengths // count
    centres = points.gather(1, first[..., None].expand(-1, -1, points.shape[2]))
    codes = _nearest(points, centres)
    for _ in range(ROUNDS):
        centres = means_of(points, codes, valid, count, centres)
        before, codes = codes, _nearest(points, centres)
        if torch.equal(before, codes):
            break
    return codes


def means_of(
    points: torch.Tensor,
    codes: torch.Tensor,
    valid: torch.Tensor,
    count: int,
    otherwise: torch.Tensor | None = None,
) -> torch.Tensor:
    """The mean `[R, count, d]` of each codeword's points; without any 0, or what stands in `otherwise`."""
    weights = valid.to(points.dtype)
    sums = points.new_zeros(len(points), count, points.shape[2])
    sums.scatter_add_(1, codes[..., None].expand_as(points), points * weights[..., None])
    counts = points.new_zeros(len(points), count).scatter_add_(1, codes, weights)[..., None]
    means = sums / counts.clamp_min(1)
    return means if otherwise is None else torch.where(counts > 0, means, otherwise)


def _nearest(points: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    squares = (centres**2).sum(-1)[:, None]
    return (squares - 2 * points @ centres.mT).argmin(-1)
