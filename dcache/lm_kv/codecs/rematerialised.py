"""XQuant: keys and values as few bits of what the model's projections make them of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch

from dcache.kernels.lowbit import LowBit, pack, unpack
from dcache.lm_kv.codecs.before_rotation import turned_by
from dcache.lm_kv.codecs.codec import LayerFacts
from dcache.lm_kv.codecs.jointly import WholeRows, rows_taken
from dcache.lm_kv.codecs.latents import Latent, Linear
from dcache.lm_kv.codecs.low_bit import LowBitCodec

# Names of the tensors of codes that keys and values may have in common.
CODES = frozenset({"codes.codes", "codes.step", "codes.low", "codes.lengths"})


@dataclass(frozen=True, eq=False)
class LatentTokens:
    """Keys or values of all heads of a layer.

    Attributes:
        codes: of latents `[T, r]`, all rows' tokens one after the other; of a layer's input `[T, D]` where it
            is stored itself, then keys and values have the same.
        counts: int64, tokens of each row it was made of.
        rows: int64 `[rows]`, which of them each row is.
        first: int64, the position of the first key of each row it was made of; None for values.
        dtype: the model's.
    """

    codes: LowBit
    counts: torch.Tensor
    rows: torch.Tensor
    first: torch.Tensor | None
    dtype: torch.dtype


class Rows(Protocol):
    """Encoded keys or values of all heads of a layer."""

    @property
    def codes(self) -> LowBit:
        """`[T, r]`, all rows' tokens one after the other."""

    @property
    def counts(self) -> torch.Tensor:
        """int64, tokens of each row it was made of."""

    @property
    def rows(self) -> torch.Tensor:
        """int64 `[rows]`, which of them each row is."""

    @property
    def first(self) -> torch.Tensor | None:
        """int64, the position of the first key of each row it was made of; None for values."""

    @property
    def dtype(self) -> torch.dtype:
        """The model's."""


class OneLayer(WholeRows):
    """Base of codecs that make a layer's keys and values again from `codes`, which all its heads have.

    An encoded part is a dataclass with the attributes of `Rows`.
    """

    needs_rotary: ClassVar[bool] = True
    alone: ClassVar[bool] = True
    shared: ClassVar[frozenset[str]] = frozenset()
    paired: ClassVar[frozenset[str]] = CODES

    def groups(self, layers: int) -> list[tuple[int, ...]]:
        """Each layer by itself, with all its heads, from the first to the last."""
        return [(place,) for place in range(layers)]

    def take(self, encoded: Any, rows: torch.Tensor, lengths: torch.Tensor) -> Any:
        """Whole rows; codes stay where they are, also for layers that are read with them."""
        return replace(encoded, rows=rows_taken(encoded.counts, encoded.rows, rows, lengths))

    def tensors(self, encoded: Rows) -> dict[str, torch.Tensor]:
        """The layer's codes, counts and rows, and positions of keys."""
        codes = {f"codes.{name}": tensor for name, tensor in encoded.codes.tensors().items()}
        first = {} if encoded.first is None else {"first": encoded.first}
        return {**codes, "counts": encoded.counts, "rows": encoded.rows, **first}


def codes_of(
    tensors: Mapping[str, torch.Tensor], bits: int, group: int, channels: int, like: torch.Tensor
) -> LowBit:
    """The codes among what `OneLayer.tensors` gave.

    Args:
        tensors: what it gave.
        bits: of a number.
        group: tokens or channels that share a step.
        channels: numbers of a token.
        like: of the model's dtype.
    """
    named = {n.removeprefix("codes."): t for n, t in tensors.items() if n.startswith("codes.")}
    precise = torch.promote_types(like.dtype, torch.float32)
    return LowBit(**named, bits=bits, group=group, channels=channels, dtype=precise)


@dataclass(frozen=True)
class LatentCodec(OneLayer):
    """A layer's input in few bits, or latents of all heads: of keys per channel, of values per token.

    Attributes:
        bits: of a number: 2, 3, 4 or 8.
        group: tokens of a channel, and latents of a token's values, that share a step.
        residual: newest tokens of a row that stay as they came.
        facts: what is known of the layer.

    Raises:
        DcacheError: a field is outside its range.
    """

    bits: int
    group: int
    residual: int
    facts: LayerFacts = field(default_factory=LayerFacts, compare=False, repr=False)
    name: ClassVar[str] = "xquant"
    needs_latents: ClassVar[str] = "latents"

    def __post_init__(self) -> None:
        """Check every field's range."""
        LowBitCodec(self.bits, self.group, self.residual)

    def bound(self, facts: LayerFacts) -> LatentCodec:
        """The codec of one layer."""
        return replace(self, facts=replace(facts, state=None))

    def encode_group(
        self,
        codecs: Sequence[LatentCodec],
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        lengths: torch.Tensor,
        first: torch.Tensor,
        inputs: Sequence[torch.Tensor] = (),
    ) -> list[tuple[LatentTokens, LatentTokens]]:
        """The layer's input, or its keys, turned back, and values."""
        (codec,), counts, heads = codecs, lengths[:, 0].clone(), lengths.shape[1]
        rows = torch.arange(len(counts), device=counts.device)
        of_keys, of_values = codec._codes(keys, values, inputs, counts, _positions(counts, first, heads))
        dtype = (inputs or keys)[0].dtype
        return [
            (
                LatentTokens(of_keys, counts, rows, first.clone(), dtype),
                LatentTokens(of_values, counts.clone(), rows.clone(), None, dtype),
            )
        ]

    def decode(self, encoded: LatentTokens) -> torch.Tensor:
        """Keys made again and turned, or values made again."""
        latent = self._latent("values" if encoded.first is None else "keys")
        return by_heads(encoded, latent.states(unpack(encoded.codes)), latent.heads, self.facts)

    def restore(self, tensors: Mapping[str, torch.Tensor], like: torch.Tensor) -> LatentTokens:
        """Keys or values."""
        channels = self._latent("keys" if "first" in tensors else "values").size
        codes = codes_of(tensors, self.bits, self.group, channels, like)
        return LatentTokens(codes, tensors["counts"], tensors["rows"], tensors.get("first"), like.dtype)

    def _codes(
        self,
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        inputs: Sequence[torch.Tensor],
        counts: torch.Tensor,
        positions: torch.Tensor,
    ) -> tuple[LowBit, LowBit]:
        """Codes of keys and of values; the same where the layer's input is stored itself."""
        latents = self._latent("keys"), self._latent("values")
        if isinstance(latents[0], Linear) or isinstance(latents[1], Linear):
            given = inputs[0]
            precise = torch.promote_types(given.dtype, torch.float32)
            codes = pack(given.to(precise), self.bits, self.group, counts.clone())
            return codes, codes
        precise, heads = torch.promote_types(keys[0].dtype, torch.float32), latents[0].heads
        turned = turned_by(self.facts, keys[0], positions, "back")
        of_keys = latents[0].of(_heads_together(turned, counts, heads))
        of_values = latents[1].of(_heads_together(values[0].to(precise), counts, heads))
        return pack(of_keys, self.bits, self.group, counts), pack(of_values, self.bits, self.group)

    def _latent(self, part: str) -> Latent | Linear:
        if self.facts.latents is None:
            raise TypeError("the codec is bound to no layer")
        return self.facts.latents[part]


def by_heads(encoded: Rows, states: torch.Tensor, heads: int, facts: LayerFacts) -> torch.Tensor:
    """States `[T, h * d]` of all tokens as runs `[N, d]` of the rows that there are; keys are turned."""
    rows = states.split(encoded.counts.tolist())
    built = [rows[row].unflatten(1, (heads, -1)).transpose(0, 1) for row in encoded.rows.tolist()]
    flat = torch.cat([piece.flatten(0, 1) for piece in built])
    if encoded.first is not None:
        places = _positions(encoded.counts[encoded.rows], encoded.first[encoded.rows], heads)
        flat = turned_by(facts, flat, places, "forward")
    return flat.to(encoded.dtype)


def _positions(counts: torch.Tensor, first: torch.Tensor, heads: int) -> torch.Tensor:
    """int64 `[N]`, the position of each row's tokens in every head."""
    sizes = counts.repeat_interleave(heads)
    starts = first.repeat_interleave(heads) - (sizes.cumsum(0) - sizes)
    return torch.arange(int(sizes.sum()), device=counts.device) + starts.repeat_interleave(sizes)


def _heads_together(states: torch.Tensor, counts: torch.Tensor, heads: int) -> torch.Tensor:
    """Runs `[N, d]` of rows' heads as rows' tokens `[T, heads * d]`."""
    pieces = states.split((counts * heads).tolist())
    return torch.cat([x.unflatten(0, (heads, -1)).transpose(0, 1).flatten(1) for x in pieces])
