"""XQuant-CL: a layer's input as the sum of differences from layer to layer, each in few bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from dcache.kernels.lowbit import LowBit, pack, row_bytes, unpack
from dcache.lm_kv.codecs.carry import Carry
from dcache.lm_kv.codecs.codec import LayerFacts
from dcache.lm_kv.codecs.latents import Linear
from dcache.lm_kv.codecs.low_bit import LowBitCodec
from dcache.lm_kv.codecs.rematerialised import OneLayer, by_heads, codes_of
from dcache.util.checks import check_whole


@dataclass(frozen=True, eq=False)
class Difference:
    """What a layer's input adds to that of the layer below.

    Attributes:
        codes: `[T, D]`, or `[T, r]` along the layer's directions, all rows' tokens one after the other.
        below: of the layer below; None for the first one, whose codes are its input.
        directions: `[D, r]`, the model's; None where all of the input is stored.
    """

    codes: LowBit
    below: Difference | None
    directions: torch.Tensor | None

    def added(self) -> torch.Tensor:
        """`[T, D]` by which the layer's input differs."""
        codes = unpack(self.codes)
        return codes if self.directions is None else codes @ self.directions.T.to(codes)


@dataclass(frozen=True, eq=False)
class SummedTokens:
    """Keys or values of all heads of a layer; both have the same difference.

    Attributes:
        difference: the layer's own part of its input.
        counts: int64, tokens of each row it was made of.
        rows: int64 `[rows]`, which of them each row is.
        first: int64, the position of the first key of each row it was made of; None for values.
        dtype: the model's.
    """

    difference: Difference
    counts: torch.Tensor
    rows: torch.Tensor
    first: torch.Tensor | None
    dtype: torch.dtype

    @property
    def codes(self) -> LowBit:
        """The difference's."""
        return self.difference.codes


@dataclass(frozen=True)
class CrossLayerCodec(OneLayer):
    """Inputs of all layers: of the first one in few bits, of the others how they differ from the sum so far.

    Differences are taken from the rounded sum, so that errors do not add up: what a layer's codes miss is
    part of the next one's difference.

    Attributes:
        bits: of a number: 2, 3, 4 or 8.
        base: layers, from the first on, that have `base_bits`.
        base_bits: of their numbers.
        group: tokens of a channel that share a step.
        residual: newest tokens of a row that stay as they came.
        facts: what is known of the layer.

    Raises:
        DcacheError: a field is outside its range.
    """

    bits: int
    base: int
    base_bits: int
    group: int
    residual: int
    facts: LayerFacts = field(default_factory=LayerFacts, compare=False, repr=False)
    name: ClassVar[str] = "xquant_cl"
    needs_latents: ClassVar[str] = "inputs"

    def __post_init__(self) -> None:
        """Check every field's range."""
        check_whole("base", self.base, 1)
        for bits in (self.bits, self.base_bits):
            LowBitCodec(bits, self.group, self.residual)

    def bound(self, facts: LayerFacts) -> CrossLayerCodec:
        """The codec of one layer."""
        return replace(self, facts=replace(facts, state=None))

    def encode_group(
        self,
        codecs: Sequence[CrossLayerCodec],
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        lengths: torch.Tensor,
        first: torch.Tensor,
        inputs: Sequence[torch.Tensor] = (),
    ) -> list[tuple[SummedTokens, SummedTokens]]:
        """The layer's difference from the one that was encoded before, for its keys and for its values."""
        (codec,), (given,), counts = codecs, inputs, lengths[:, 0].clone()
        carry, place = codec.facts.carry, codec.facts.place
        encoded = None if carry is None else carry.encoded
        if carry is None or (place and (encoded is None or encoded[0] != place - 1)):
            raise TypeError("layers are encoded in their order")
        below: Difference | None = encoded[1] if place and encoded else None
        directions = codec._linear("keys").directions
        ahead = given.to(torch.promote_types(given.dtype, torch.float32))
        ahead = ahead if below is None else ahead - summed(below, carry)
        ahead = ahead if directions is None else ahead @ directions.to(ahead)
        bits = self.base_bits if place < self.base else self.bits
        difference = Difference(pack(ahead, bits, self.group, counts.clone()), below, directions)
        carry.encoded = place, difference
        rows = torch.arange(len(counts), device=counts.device)
        of_keys = SummedTokens(difference, counts, rows, first.clone(), given.dtype)
        return [(of_keys, replace(of_keys, counts=counts.clone(), rows=rows.clone(), first=None))]

    def decode(self, encoded: SummedTokens) -> torch.Tensor:
        """Keys made again and turned, or values made again."""
        linear = self._linear("values" if encoded.first is None else "keys")
        states = linear.states(summed(encoded.difference, self.facts.carry))
        return by_heads(encoded, states, linear.heads, self.facts)

    def restore(self, tensors: Mapping[str, torch.Tensor], like: torch.Tensor) -> SummedTokens:
        """Keys or values, without the layer below, which `above` gives them."""
        linear = self._linear("keys")
        channels = linear.size if linear.directions is None else linear.directions.shape[1]
        size = tensors["codes.codes"].shape[1]
        bits = next(bits for bits in (self.base_bits, self.bits) if row_bytes(channels, bits) == size)
        codes = codes_of(tensors, bits, self.group, channels, like)
        difference = Difference(codes, None, linear.directions)
        return SummedTokens(difference, tensors["counts"], tensors["rows"], tensors.get("first"), like.dtype)

    def above(self, keys: SummedTokens, values: SummedTokens, below: SummedTokens) -> dict[str, Any]:
        """Both on the layer below."""
        difference = replace(keys.difference, below=below.difference)
        return {
            name: replace(part, difference=difference) for name, part in (("keys", keys), ("values", values))
        }

    def _linear(self, part: str) -> Linear:
        linear = None if self.facts.latents is None else self.facts.latents[part]
        if not isinstance(linear, Linear):
            raise TypeError("the codec is bound to no layer")
        return linear


def summed(difference: Difference, carry: Carry | None = None) -> torch.Tensor:
    """The input `[T, D]` of a layer, the sum of its difference and of all below it, from the first one on.

    Args:
        difference: the layer's.
        carry: has the sum of a layer below, where the running forward formed it.
    """
    missing: list[Difference] = []
    place: Difference | None = difference
    total = None
    while place is not None and total is None:
        total = None if carry is None else carry.get(place)
        if total is None:
            missing.append(place)
            place = place.below
    for part in reversed(missing):
        total = part.added() if total is None else total + part.added()
        if carry is not None:
            carry.put(part, total, part.below)
    if total is None:
        raise TypeError("a sum has a part")
    return total
