"""Keys before rotation, and values, as sums of few directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from dcache.lm_kv.codecs import low_rank
from dcache.lm_kv.codecs.before_rotation import WHOLE_RUN, on_basis, places_of, turned_by
from dcache.lm_kv.codecs.codec import LayerFacts
from dcache.lm_kv.codecs.low_rank import LowRank
from dcache.util.checks import check_whole


@dataclass(frozen=True, eq=False)
class Projected:
    """Keys or values `[N, d]`, as products.

    Attributes:
        products: of low rank.
        places: int32 `[N]`, the positions by which keys are turned; None for values.
        dtype: the model's.
    """

    products: LowRank
    places: torch.Tensor | None
    dtype: torch.dtype


@dataclass(frozen=True)
class ProjectedCodec:
    """CSKV and MatryoshkaKV without their training: a head's strongest directions, of the text or calibrated.

    Attributes:
        rank: directions of keys.
        value_rank: directions of values, which need more.
        group: tokens of a row that are encoded together and share directions of the text.
        residual: newest tokens of a row that stay as they came, at least.
        facts: what is known of the layer.

    Raises:
        DcacheError: a field is outside its range.
    """

    rank: int
    value_rank: int
    group: int
    residual: int
    facts: LayerFacts = field(default_factory=LayerFacts, compare=False, repr=False)
    name: ClassVar[str] = "cskv"
    needs_rotary: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check every field's range."""
        check_whole("rank", self.rank, 1)
        check_whole("value_rank", self.value_rank, 1)
        check_whole("group", self.group, 1)
        check_whole("residual", self.residual, 0)

    @property
    def block(self) -> int:
        """Tokens that are encoded together: whole groups."""
        return self.group

    def bound(self, facts: LayerFacts) -> ProjectedCodec:
        """The codec of one layer."""
        return replace(self, facts=replace(facts, state=None))

    def encode_keys(self, keys: torch.Tensor, lengths: torch.Tensor, positions: torch.Tensor) -> Projected:
        """Keys turned back from their positions, and projected."""
        lengths = lengths.flatten()
        turned = turned_by(self.facts, keys, positions, "back")
        if self.facts.basis is None:
            products = low_rank.low_rank(turned, self.rank, self.group, lengths)
        else:
            run, _ = places_of(lengths)
            products = on_basis(turned, run, lengths, self.facts.basis.to(keys.device), self.rank)
        return Projected(products, positions.int(), keys.dtype)

    def encode_values(self, values: torch.Tensor, lengths: torch.Tensor) -> Projected:
        """Values, projected on directions of the text."""
        precise = values.to(torch.promote_types(values.dtype, torch.float32))
        products = low_rank.low_rank(precise, self.value_rank, self.group, lengths.flatten())
        return Projected(products, None, values.dtype)

    def decode(self, encoded: Projected) -> torch.Tensor:
        """Keys rebuilt and turned, or values rebuilt."""
        products = encoded.products
        shape = (len(products.left), products.right.shape[2])
        precise = torch.promote_types(encoded.dtype, torch.float32)
        tokens = products.add_to(torch.zeros(shape, dtype=precise, device=products.left.device))
        if encoded.places is not None:
            tokens = turned_by(self.facts, tokens, encoded.places.long(), "forward")
        return tokens.to(encoded.dtype)

    def take(self, encoded: Projected, rows: torch.Tensor, lengths: torch.Tensor) -> Projected:
        """These tokens as they are."""
        places = None if encoded.places is None else encoded.places[rows]
        return replace(encoded, products=encoded.products.take(rows, lengths.flatten()), places=places)

    def join(self, parts: Sequence[Projected], order: torch.Tensor, lengths: torch.Tensor) -> Projected:
        """All tokens as they are."""
        places = [part.places for part in parts if part.places is not None]
        products = low_rank.join([part.products for part in parts], order, lengths.flatten())
        return replace(parts[0], products=products, places=torch.cat(places)[order] if places else None)

    def tensors(self, encoded: Projected) -> dict[str, torch.Tensor]:
        """Factors, and positions of keys."""
        places = {} if encoded.places is None else {"places": encoded.places}
        return {**encoded.products.tensors(), **places}

    def restore(self, tensors: Mapping[str, torch.Tensor], like: torch.Tensor) -> Projected:
        """Keys or values."""
        factors = {name: tensor for name, tensor in tensors.items() if name != "places"}
        fixed = "places" in tensors and self.facts.basis is not None
        products = LowRank(**factors, group=WHOLE_RUN if fixed else self.group, fixed=fixed)
        return Projected(products, tensors.get("places"), like.dtype)
