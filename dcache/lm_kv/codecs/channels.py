"""Keys without the channels that weigh least in their dot products; values as they came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.codecs.codec import LayerFacts, compact
from dcache.util.checks import check_whole, is_number


@dataclass(frozen=True, eq=False)
class ChannelKeys:
    """Keys `[N, d]` in some of their channels, 0 in all others.

    Attributes:
        numbers: `[N, r]` in the model's dtype.
        channels: uint8 or int16 `[groups, r]`, in ascending order; a group is a run's tokens of one encoding.
        index: int32 `[N]`, each token's group.
        size: d.
    """

    numbers: torch.Tensor
    channels: torch.Tensor
    index: torch.Tensor
    size: int

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor that is held, by name."""
        return {"numbers": self.numbers, "channels": self.channels, "index": self.index}

    def take(self, rows: torch.Tensor) -> ChannelKeys:
        """Tokens by index, in this order; groups without a token go."""
        groups, index = self.index[rows].unique(return_inverse=True)
        return replace(
            self, numbers=self.numbers[rows], channels=self.channels[groups.long()], index=index.int()
        )


@dataclass(frozen=True)
class ChannelCodec:
    """ThinK: of each run's keys the channels j with the largest (sum_q q_j^2)(sum_k k_j^2).

    Queries are the last ones, of a policy whose observer is `QueryWindow`; with other policies keys alone
    decide.

    Attributes:
        ratio: share of the channels that is dropped, rounded down.
        block: tokens of a row that are encoded together.
        residual: newest tokens of a row that stay as they came, at least.
        weights: float32 `[B, H, d]`, sums of squares of the last queries; None where they are not known.

    Raises:
        DcacheError: a field is outside its range.
    """

    ratio: float
    block: int
    residual: int
    weights: torch.Tensor | None = field(default=None, compare=False, repr=False)
    name: ClassVar[str] = "think"
    needs_rotary: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check every field's range."""
        if not is_number(self.ratio) or not 0.0 <= self.ratio < 1.0:
            raise DcacheError(f"ratio must be a number from 0 to below 1, got {self.ratio!r}")
        check_whole("block", self.block, 1)
        check_whole("residual", self.residual, 0)

    def bound(self, facts: LayerFacts) -> ChannelCodec:
        """The codec with the last queries of one layer."""
        if not facts.state or "query" not in facts.state:
            return self
        counted = facts.state["valid"][:, None, :, None]
        return replace(self, weights=(facts.state["query"].float().square() * counted).sum(2))

    def encode_keys(self, keys: torch.Tensor, lengths: torch.Tensor, positions: torch.Tensor) -> ChannelKeys:
        """The strongest channels of each run."""
        runs, size = lengths.numel(), keys.shape[1]
        run = torch.arange(runs, device=keys.device).repeat_interleave(lengths.flatten())
        squares = torch.zeros(runs, size, dtype=torch.float32, device=keys.device).index_add(
            0, run, keys.float().square()
        )
        if self.weights is not None:
            # The mean over the heads of a group; runs are rows' KV heads.
            squares = squares * self.weights.unflatten(1, (lengths.shape[1], -1)).mean(2).flatten(0, 1)
        count = size - int(self.ratio * size + 1e-9)
        channels = squares.argsort(dim=1, descending=True, stable=True)[:, :count].sort(1).values
        narrow = torch.uint8 if size <= 2**8 else torch.int16
        return ChannelKeys(compact(keys.gather(1, channels[run])), channels.to(narrow), run.int(), size)

    def encode_values(self, values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The values, in a storage without spare room."""
        return compact(values)

    def decode(self, encoded: Any) -> torch.Tensor:
        """Keys with zeros in the dropped channels, or values."""
        if isinstance(encoded, torch.Tensor):
            return encoded
        numbers = encoded.numbers
        keys = numbers.new_zeros(len(numbers), encoded.size)
        return keys.scatter_(1, encoded.channels[encoded.index.long()].long(), numbers)

    def take(self, encoded: Any, rows: torch.Tensor, lengths: torch.Tensor) -> Any:
        """These keys or values as they are."""
        return encoded[rows] if isinstance(encoded, torch.Tensor) else encoded.take(rows)

    def join(self, parts: Sequence[Any], order: torch.Tensor, lengths: torch.Tensor) -> Any:
        """All keys or values as they are."""
        first = parts[0]
        if isinstance(first, torch.Tensor):
            return torch.cat(list(parts))[order]
        starts = [0]
        for part in parts[:-1]:
            starts.append(starts[-1] + len(part.channels))
        whole = replace(
            first,
            numbers=torch.cat([part.numbers for part in parts]),
            channels=torch.cat([part.channels for part in parts]),
            index=torch.cat([part.index + start for part, start in zip(parts, starts, strict=True)]),
        )
        return whole.take(order)

    def tensors(self, encoded: Any) -> dict[str, torch.Tensor]:
        """Values; or numbers of keys, channels and groups."""
        return {"": encoded} if isinstance(encoded, torch.Tensor) else encoded.tensors()

    def restore(self, tensors: Mapping[str, torch.Tensor], like: torch.Tensor) -> Any:
        """Keys or values."""
        return tensors[""] if "" in tensors else ChannelKeys(**tensors, size=like.shape[-1])
