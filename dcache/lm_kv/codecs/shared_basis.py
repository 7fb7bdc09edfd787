"""xKV: neighbouring layers share one basis of tokens, found by a singular value decomposition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from dcache.lm_kv.codecs.before_rotation import turned_by
from dcache.lm_kv.codecs.codec import LayerFacts
from dcache.lm_kv.codecs.jointly import WholeRows, rows_taken
from dcache.util.checks import check_whole


@dataclass(frozen=True, eq=False)
class OnBasis:
    """Keys or values of one layer, `basis @ right` in each row and head.

    Attributes:
        basis: `[T, r]`, all rows' tokens one after the other; all layers of the group have it.
        right: `[rows it was made of, heads, r, d]`, the layer's.
        counts: int64, tokens of each row it was made of.
        rows: int64 `[rows]`, which of them each row is.
        turned: whether they were turned back by their places, as keys are.
    """

    basis: torch.Tensor
    right: torch.Tensor
    counts: torch.Tensor
    rows: torch.Tensor
    turned: bool


@dataclass(frozen=True)
class SharedBasisCodec(WholeRows):
    """Keys before rotation and values of a group of layers, side by side, by their strongest directions.

    Attributes:
        layers: neighbours that share a basis; the last group may have fewer.
        rank: directions of a group's keys.
        value_rank: directions of a group's values.
        residual: newest tokens of a row that stay as they came.
        facts: what is known of the layer.

    Raises:
        DcacheError: a field is outside its range.
    """

    layers: int
    rank: int
    value_rank: int
    residual: int
    facts: LayerFacts = field(default_factory=LayerFacts, compare=False, repr=False)
    name: ClassVar[str] = "xkv"
    needs_rotary: ClassVar[bool] = True
    shared: ClassVar[frozenset[str]] = frozenset({"basis"})

    def __post_init__(self) -> None:
        """Check every field's range."""
        check_whole("layers", self.layers, 1)
        check_whole("rank", self.rank, 1)
        check_whole("value_rank", self.value_rank, 1)
        check_whole("residual", self.residual, 0)

    def bound(self, facts: LayerFacts) -> SharedBasisCodec:
        """The codec of one layer."""
        return replace(self, facts=replace(facts, state=None))

    def groups(self, layers: int) -> list[tuple[int, ...]]:
        """Neighbours, from the first layer on."""
        starts = range(0, layers, self.layers)
        return [tuple(range(start, min(start + self.layers, layers))) for start in starts]

    def encode_group(
        self,
        codecs: Sequence[SharedBasisCodec],
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        lengths: torch.Tensor,
        first: torch.Tensor,
        inputs: Sequence[torch.Tensor] = (),
    ) -> list[tuple[OnBasis, OnBasis]]:
        """Each layer's keys and values on the group's two bases."""
        counts, heads = lengths[:, 0], lengths.shape[1]
        # Places for positions, which do not jump: to turn all keys of a row alike changes no singular value.
        places = _places(counts, heads)
        turned = [turned_by(codec.facts, k, places, "back") for codec, k in zip(codecs, keys, strict=True)]
        on_keys = _on_basis(turned, counts, heads, self.rank, keys[0].dtype)
        precise = [v.to(torch.promote_types(v.dtype, torch.float32)) for v in values]
        on_values = _on_basis(precise, counts, heads, self.value_rank, values[0].dtype)
        return [
            (replace(k, turned=True), replace(v, turned=False))
            for k, v in zip(on_keys, on_values, strict=True)
        ]

    def decode(self, encoded: OnBasis) -> torch.Tensor:
        """Tokens rebuilt; keys turned to their places."""
        basis, right, counts = encoded.basis, encoded.right, encoded.counts
        precise = torch.promote_types(basis.dtype, torch.float32)
        tokens = basis.to(precise).split(counts.tolist())
        built = [(tokens[row] @ right[row].to(precise)).flatten(0, 1) for row in encoded.rows.tolist()]
        flat = torch.cat(built)
        if encoded.turned:
            flat = turned_by(self.facts, flat, _places(counts[encoded.rows], right.shape[1]), "forward")
        return flat.to(basis.dtype)

    def take(self, encoded: OnBasis, rows: torch.Tensor, lengths: torch.Tensor) -> OnBasis:
        """Whole rows; factors stay where they are, so that layers go on sharing them."""
        return replace(encoded, rows=rows_taken(encoded.counts, encoded.rows, rows, lengths))

    def tensors(self, encoded: OnBasis) -> dict[str, torch.Tensor]:
        """Factors, counts and rows; `turned` of keys."""
        names = ("basis", "right", "counts", "rows")
        tensors = {name: getattr(encoded, name) for name in names}
        return {**tensors, "turned": torch.ones(1, dtype=torch.bool)} if encoded.turned else tensors

    def restore(self, tensors: Mapping[str, torch.Tensor], like: torch.Tensor) -> OnBasis:
        """Keys or values."""
        factors = {name: tensor for name, tensor in tensors.items() if name != "turned"}
        return OnBasis(**factors, turned="turned" in tensors)


def _places(counts: torch.Tensor, heads: int) -> torch.Tensor:
    """int64 `[N]`, each token's place in its run."""
    sizes = counts.repeat_interleave(heads)
    starts = sizes.cumsum(0) - sizes
    total = torch.arange(int(sizes.sum()), device=counts.device)
    return total - starts.repeat_interleave(sizes)


def _on_basis(
    states: Sequence[torch.Tensor], counts: torch.Tensor, heads: int, rank: int, dtype: torch.dtype
) -> list[OnBasis]:
    """Each layer's states `[N, d]` on one basis, factors with the roots of the singular values."""
    size = states[0].shape[1]
    width = min(rank, int(counts.max()), len(states) * heads * size)
    basis = states[0].new_zeros(int(counts.sum()), width)
    right = states[0].new_zeros(len(states), len(counts), heads, width, size)
    start = 0
    for row, (count, *pieces) in enumerate(
        zip(counts.tolist(), *(s.split((counts * heads).tolist()) for s in states), strict=True)
    ):
        if count:
            # Tokens by features of all layers and heads.
            wide = torch.stack([piece.view(heads, count, size) for piece in pieces]).permute(2, 0, 1, 3)
            u, s, v = torch.linalg.svd(wide.reshape(count, -1), full_matrices=False)
            kept = min(width, len(s))
            root = s[:kept].sqrt()
            basis[start : start + count, :kept] = u[:, :kept] * root
            factors = (root[:, None] * v[:kept]).view(kept, len(states), heads, size)
            right[:, row, :, :kept] = factors.permute(1, 2, 0, 3)
            start += count
    basis = basis.to(dtype)
    rows = torch.arange(len(counts), device=counts.device)
    return [OnBasis(basis, layer.to(dtype).clone(), counts.clone(), rows.clone(), False) for layer in right]
