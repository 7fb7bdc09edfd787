"""Keys and values by the directions that a head's have in this model, as many as each head needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.codecs import bases
from dcache.lm_kv.codecs.bases import BasisTokens, HeadBasis
from dcache.lm_kv.codecs.before_rotation import places_of
from dcache.lm_kv.codecs.codec import LayerFacts
from dcache.util.checks import check_whole, is_number


@dataclass(frozen=True)
class BasisCodec:
    """MatryoshkaKV without its training: see `lm_kv.matryoshka`.

    Attributes:
        share: of all directions of keys and values, those that are stored.
        residual: newest tokens of a row that stay as they came, at least.
        facts: what is known of the layer.

    Raises:
        DcacheError: a field is outside its range.
    """

    share: float
    residual: int
    facts: LayerFacts = field(default_factory=LayerFacts, compare=False, repr=False)
    name: ClassVar[str] = "matryoshka"
    needs_rotary: ClassVar[bool] = False
    needs_bases: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check every field's range."""
        if not is_number(self.share) or not 0.25 <= self.share <= 1.0:
            raise DcacheError(f"share must be a number from 0.25 to 1, got {self.share!r}")
        check_whole("residual", self.residual, 0)

    @property
    def block(self) -> int:
        """Tokens that are encoded together; they have nothing in common, so fewer would cost more time."""
        return 32

    def bound(self, facts: LayerFacts) -> BasisCodec:
        """The codec of one layer."""
        return replace(self, facts=replace(facts, state=None))

    def encode_keys(self, keys: torch.Tensor, lengths: torch.Tensor, positions: torch.Tensor) -> BasisTokens:
        """Keys on their heads' directions."""
        return self._encode(keys, lengths, "keys")

    def encode_values(self, values: torch.Tensor, lengths: torch.Tensor) -> BasisTokens:
        """Values on theirs."""
        return self._encode(values, lengths, "values")

    def decode(self, encoded: BasisTokens) -> torch.Tensor:
        """Sums of directions, and the mean."""
        return encoded.decoded()

    def take(self, encoded: BasisTokens, rows: torch.Tensor, lengths: torch.Tensor) -> BasisTokens:
        """These tokens as they are."""
        return encoded.take(rows)

    def join(self, parts: Sequence[BasisTokens], order: torch.Tensor, lengths: torch.Tensor) -> BasisTokens:
        """All tokens as they are."""
        return bases.join(parts, order)

    def tensors(self, encoded: BasisTokens) -> dict[str, torch.Tensor]:
        """Numbers, directions and means of each basis, and each token's."""
        return encoded.tensors()

    def restore(self, tensors: Mapping[str, torch.Tensor], like: torch.Tensor) -> BasisTokens:
        """Keys or values."""
        return BasisTokens.of(tensors, like.dtype)

    def _encode(self, tokens: torch.Tensor, lengths: torch.Tensor, part: str) -> BasisTokens:
        run, _ = places_of(lengths.flatten())
        known: Sequence[HeadBasis] = (self.facts.bases or {})[part]
        return bases.project(tokens, run % len(known), known)
