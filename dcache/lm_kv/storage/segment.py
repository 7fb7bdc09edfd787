"""A packed segment: what was kept of a layer, ragged over rows and KV heads, without pads."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from dcache.kernels.lowbit import LowBit
from dcache.lm_kv.codecs.codec import Codec, Plain
from dcache.lm_kv.codecs.host import HostTokens
from dcache.lm_kv.codecs.low_bit import LowBitCodec
from dcache.lm_kv.storage.encoded import EncodedPart
from dcache.lm_kv.storage.parts import DensePart, Part, RaggedPart
from dcache.util.bytes import bytes_of


@dataclass(frozen=True)
class Segment:
    """Keys and values of `rows * heads` runs, one after the other; never written to once made.

    Run `b * heads + h` has the kept tokens of row b and KV head h in ascending order of position.

    Attributes:
        keys: encoded keys of all runs, decoded to `[N, d]`.
        values: encoded values, decoded to `[N, d_v]`.
        positions: int32 `[N]`, each token's index among its row's true tokens; None where every run has all
            tokens from its first one on.
        lengths: int64 `[rows, heads]`, tokens in each run.
        first: int64 `[rows, heads]`, each run's first position; None where there are positions.
        bias: float32 `[N]` added to each token's logits, None where all are 0.
        score: float32 `[N, ...]`, an observer's statistic of each token, None where it has none.
        codec: how keys and values are encoded.
        index: tensors `[rows, ...]` that a selector looks at instead of the keys; None without one.
        lent: names of encoded tensors that belong to another layer's segment, which counts and saves them.
    """

    keys: Any
    values: Any
    positions: torch.Tensor | None
    lengths: torch.Tensor
    bias: torch.Tensor | None = None
    score: torch.Tensor | None = None
    codec: Codec = field(default_factory=Plain)
    first: torch.Tensor | None = None
    index: dict[str, torch.Tensor] | None = None
    lent: frozenset[str] = frozenset()

    @cached_property
    def sizes(self) -> list[int]:
        """Tokens in each run, on the host."""
        sizes: list[int] = self.lengths.flatten().tolist()
        return sizes

    @cached_property
    def width(self) -> int:
        """Tokens in the longest run."""
        return max(self.sizes, default=0)

    @cached_property
    def uniform(self) -> bool:
        """Whether all runs are equally long, so that the storage is `[rows, heads, width, ...]`."""
        return len(set(self.sizes)) <= 1

    @property
    def valid(self) -> torch.Tensor:
        """Bool `[rows, heads, width]`: which slots of the padded form hold a token."""
        slots = torch.arange(self.width, device=self.lengths.device)
        return slots < self.lengths[..., None]

    def places(self) -> torch.Tensor:
        """int32 `[N]`, each token's index among its row's true tokens."""
        if self.positions is not None:
            return self.positions
        if self.first is None:
            raise TypeError("a segment has positions, or the first one of each run")
        lengths = self.lengths.flatten()
        start = self.first.flatten() - (lengths.cumsum(0) - lengths)
        return self._numbered(start).int()

    def pad(self, flat: torch.Tensor, fill: float = 0.0) -> torch.Tensor:
        """A flat `[N, ...]` as `[rows, heads, width, ...]`; a view where the runs are equally long."""
        shape = (*self.lengths.shape, self.width, *flat.shape[1:])
        if self.uniform:
            return flat.view(shape)
        padded = flat.new_full(shape, fill)
        padded.view(-1, *flat.shape[1:])[self._slots().to(flat.device)] = flat
        return padded

    def flatten(self, padded: torch.Tensor) -> torch.Tensor:
        """The inverse of `pad`."""
        flat = padded.reshape(-1, *padded.shape[3:])
        return flat if self.uniform else flat[self._slots()]

    def _numbered(self, start: torch.Tensor) -> torch.Tensor:
        """int64 `[N]`: each token's index in `[0, N)`, plus its run's start, int64 `[rows * heads]`.

        Nothing is asked of a GPU: the number of tokens is known on the host.
        """
        count = sum(self.sizes)
        starts = start.repeat_interleave(self.lengths.flatten(), output_size=count)
        return starts + torch.arange(count, device=start.device)

    def _slots(self) -> torch.Tensor:
        """int64 `[N]`, each token's slot in the padded form, flat."""
        lengths = self.lengths.flatten()
        runs = torch.arange(len(lengths), device=lengths.device)
        return self._numbered(runs * self.width - (lengths.cumsum(0) - lengths))

    def decoded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Flat keys `[N, d]` and values `[N, d_v]` in the model's dtype."""
        return self.codec.decode(self.keys), self.codec.decode(self.values)

    def keys_where_they_lie(self) -> torch.Tensor:
        """Flat keys `[N, d]`, in host memory where they are kept there as they came."""
        return self.keys.states if isinstance(self.keys, HostTokens) else self.codec.decode(self.keys)

    def tokens(self, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of some tokens, int64 indices of any shape in `[0, N)`; no others are decoded."""
        rows, runs = places.flatten(), torch.tensor([places.numel()], device=places.device)
        parts = (self.codec.decode(self.codec.take(part, rows, runs)) for part in (self.keys, self.values))
        keys, values = (part.view(*places.shape, part.shape[-1]) for part in parts)
        return keys, values

    def bytes_in(self, tier: str) -> int:
        """Bytes of keys and values that the codec put into a tier, "host" or "disk"."""
        parts = [part.tiers() for part in (self.keys, self.values) if hasattr(part, "tiers")]
        return bytes_of(tensor for tiers in parts for tensor in tiers.get(tier, []))

    def part(self) -> Part:
        """All of it for attention. What a codec other than those here decodes is not kept."""
        kept = isinstance(self.codec, Plain) or isinstance(self.keys, LowBit)
        return self._same_part if kept else self._part()

    def with_score(self, score: torch.Tensor) -> Segment:
        """The same tokens with another running statistic `[N]`."""
        # Unlike `replace`, a copy takes along what is known of sizes and parts.
        other = copy.copy(self)
        object.__setattr__(other, "score", score)
        return other

    def select_rows(self, rows: torch.Tensor) -> Segment:
        """Rows by index, in this order, repeated where an index is."""
        heads = self.lengths.shape[1]
        starts = self.lengths.flatten().cumsum(0) - self.lengths.flatten()
        runs = (rows[:, None] * heads + torch.arange(heads, device=rows.device)).flatten()
        lengths = self.lengths.flatten()[runs]
        first = torch.repeat_interleave(starts[runs] - (lengths.cumsum(0) - lengths), lengths)
        index = first + torch.arange(len(first), device=rows.device)
        taken = self._take(index, self.lengths[rows])
        if self.index is not None:
            # Graphs of keys are in host memory.
            moved = {name: part[rows.to(part.device)] for name, part in self.index.items()}
            taken = replace(taken, index=moved)
        if self.first is None:
            return taken
        return replace(taken, positions=None, first=self.first[rows])

    def subset(self, keep: torch.Tensor) -> Segment:
        """The tokens in `keep`, bool `[rows, heads, width]`, as they are encoded."""
        return self._take(self.flatten(keep).nonzero()[:, 0], keep.sum(-1))

    def _take(self, index: torch.Tensor, lengths: torch.Tensor) -> Segment:
        return replace(
            self,
            keys=self.codec.take(self.keys, index, lengths),
            values=self.codec.take(self.values, index, lengths),
            positions=self.places()[index],
            lengths=lengths,
            bias=None if self.bias is None else self.bias[index],
            score=None if self.score is None else self.score[index],
            first=None,
            index=None,
        )

    def owned(self, encoded: Any) -> dict[str, torch.Tensor]:
        """Tensors of its keys or values by name, but for those of another layer, and of values its keys'."""
        tensors, lent = self.codec.tensors(encoded), self.lent
        paired: frozenset[str] = getattr(self.codec, "paired", frozenset())
        if paired and encoded is not self.keys:
            keys = self.codec.tensors(self.keys)
            lent = lent | {name for name in paired if keys.get(name) is tensors.get(name)}
        return {name: tensor for name, tensor in tensors.items() if name not in lent}

    def storages(self) -> list[torch.Tensor]:
        """Every tensor that is held, for counting bytes."""
        optional = [self.positions, self.first, self.bias, self.score]
        encoded = [t for part in (self.keys, self.values) for t in self.owned(part).values()]
        return [
            *encoded,
            self.lengths,
            *(part for part in optional if part is not None),
            *(self.index or {}).values(),
        ]

    @cached_property
    def _same_part(self) -> Part:
        return self._part()

    def _part(self) -> Part:
        bias = None if self.bias is None else self.pad(self.bias)
        if isinstance(self.codec, LowBitCodec) and isinstance(self.keys, LowBit):
            return EncodedPart(self.codec, self.keys, self.values, self.lengths, self.sizes, bias)
        keys, values = self.decoded()
        if self.uniform:
            return DensePart(self.pad(keys), self.pad(values), None, bias)
        return RaggedPart(keys, values, self.lengths, self.sizes, bias)


def join(segments: Sequence[Segment]) -> Segment:
    """Segments of one codec as one: each run has its tokens of the first, then of the second, and so on."""
    first = segments[0]
    runs = torch.arange(first.lengths.numel(), device=first.lengths.device)
    order = torch.cat([runs.repeat_interleave(s.lengths.flatten()) for s in segments]).argsort(stable=True)
    lengths = torch.stack([segment.lengths for segment in segments]).sum(0)

    def joined(tensors: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
        if all(tensor is None for tensor in tensors):
            return None
        more = next(tensor.shape[1:] for tensor in tensors if tensor is not None)
        sizes = (segment.lengths.sum() for segment in segments)
        zeros = (torch.zeros(int(size), *more, dtype=torch.float32, device=runs.device) for size in sizes)
        return torch.cat([z if t is None else t for t, z in zip(tensors, zeros, strict=True)])[order]

    return Segment(
        keys=first.codec.join([segment.keys for segment in segments], order, lengths),
        values=first.codec.join([segment.values for segment in segments], order, lengths),
        positions=torch.cat([segment.places() for segment in segments])[order],
        lengths=lengths,
        bias=joined([segment.bias for segment in segments]),
        score=joined([segment.score for segment in segments]),
        codec=first.codec,
    )


def append(segment: Segment, new: Segment) -> Segment:
    """`join` of two segments without gaps, the second of which goes on where the first one ends."""
    if segment.first is None or new.first is None:
        raise TypeError("only segments without gaps go on")
    first = torch.where(segment.lengths > 0, segment.first, new.first)
    return replace(join([segment, new]), positions=None, first=first)
