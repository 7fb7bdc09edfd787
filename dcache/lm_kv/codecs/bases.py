"""A head's directions, and tokens as products with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True, eq=False)
class HeadBasis:
    """Directions of the keys or values of one head.

    Attributes:
        mean: float32 `[d]`.
        directions: float16 `[r, d]`, orthonormal, the strongest first.
    """

    mean: torch.Tensor
    directions: torch.Tensor


@dataclass(frozen=True, eq=False)
class BasisTokens:
    """Tokens `[N, d]` as `mean + numbers @ directions` of the basis that each is of.

    Attributes:
        numbers: for each basis float16 `[n, r]`, its tokens in order.
        bases: the bases; tokens of a file and those that came later may have different ones.
        index: int16 `[N]`, each token's basis.
        dtype: the model's.
    """

    numbers: tuple[torch.Tensor, ...]
    bases: tuple[HeadBasis, ...]
    index: torch.Tensor
    dtype: torch.dtype

    def decoded(self) -> torch.Tensor:
        """The tokens in the model's dtype."""
        wide = torch.promote_types(self.dtype, torch.float32)
        size = len(self.bases[0].mean)
        out = torch.empty(len(self.index), size, dtype=wide, device=self.index.device)
        for place, (numbers, basis) in enumerate(zip(self.numbers, self.bases, strict=True)):
            products = numbers.to(wide) @ basis.directions.to(wide)
            out[self.index == place] = products + basis.mean.to(wide)
        return out.to(self.dtype)

    def take(self, rows: torch.Tensor) -> BasisTokens:
        """Tokens by index, in this order."""
        places = torch.empty(len(self.index), dtype=torch.long, device=rows.device)
        for place, numbers in enumerate(self.numbers):
            places[self.index == place] = torch.arange(len(numbers), device=rows.device)
        index, places = self.index[rows], places[rows]
        taken = [numbers[places[index == place]] for place, numbers in enumerate(self.numbers)]
        return replace(self, numbers=tuple(taken), index=index)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor that is held, by name."""
        named = {"index": self.index}
        for place, (numbers, basis) in enumerate(zip(self.numbers, self.bases, strict=True)):
            parts = {"numbers": numbers, "mean": basis.mean, "directions": basis.directions}
            named |= {f"{place}.{name}": tensor for name, tensor in parts.items()}
        return named

    @staticmethod
    def of(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> BasisTokens:
        """What `tensors` gave."""
        places = range((len(tensors) - 1) // 3)
        return BasisTokens(
            tuple(tensors[f"{i}.numbers"] for i in places),
            tuple(HeadBasis(tensors[f"{i}.mean"], tensors[f"{i}.directions"]) for i in places),
            tensors["index"],
            dtype,
        )


def project(tokens: torch.Tensor, heads: torch.Tensor, bases: Sequence[HeadBasis]) -> BasisTokens:
    """Tokens `[N, d]` of these heads, int64 `[N]`, on their heads' directions."""
    wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    numbers = [
        ((wide[heads == head] - basis.mean.to(wide)) @ basis.directions.to(wide).T).half()
        for head, basis in enumerate(bases)
    ]
    return BasisTokens(tuple(numbers), tuple(bases), heads.to(torch.int16), tokens.dtype)


def join(parts: Sequence[BasisTokens], order: torch.Tensor) -> BasisTokens:
    """Tokens of several parts, one after the other and then in this order, as one."""
    bases: list[HeadBasis] = []
    numbers: list[list[torch.Tensor]] = []
    indices = []
    for part in parts:
        places = []
        for basis, some in zip(part.bases, part.numbers, strict=True):
            known = [place for place, other in enumerate(bases) if other is basis]
            if not known:
                bases.append(basis)
                numbers.append([])
            places.append(known[0] if known else len(bases) - 1)
            numbers[places[-1]].append(some)
        indices.append(torch.tensor(places, dtype=torch.int16, device=order.device)[part.index.long()])
    joined = tuple(torch.cat(some) for some in numbers)
    return BasisTokens(joined, tuple(bases), torch.cat(indices), parts[0].dtype).take(order)
