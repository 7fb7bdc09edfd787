"""How keys and values of a packed segment are stored: plain, or by a codec of the same protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch

from dcache.lm_kv.codecs.bases import HeadBasis
from dcache.lm_kv.codecs.carry import Carry
from dcache.lm_kv.codecs.latents import Latent, Linear


@dataclass(frozen=True)
class LayerFacts:
    """What a codec may want to know of the layer whose tokens it encodes.

    Attributes:
        turn: (states `[B, h, n, d]`, positions `[B, n]`, mode) -> turned, as `Rotary.turn` does; None where
            the model's rotation was not looked for.
        whole: runs of at most so many tokens are read whole, so their keys should stay as they came.
        basis: float16 `[h, d, d]`, directions of each KV head's keys before rotation, one a row, the
            strongest first; None without a calibration.
        bases: of "keys" and of "values" the directions of each KV head; None for codecs that need none.
        latents: of "keys" and of "values" what the model's projections make them of; None for codecs that
            need none.
        state: what the policy's observer gathered at the layer; a codec takes from it what it needs, and does
            not keep it.
        report: called with what went wrong and cost nothing but room; the cache raises it after the forward.
        carry: what layers hand on to the next one while a forward runs; None without a cache.
        place: the layer's among those with a budget.
    """

    turn: Callable[[torch.Tensor, torch.Tensor, str], torch.Tensor] | None = None
    whole: float = 0
    basis: torch.Tensor | None = None
    bases: Mapping[str, tuple[HeadBasis, ...]] | None = None
    latents: Mapping[str, Latent | Linear] | None = None
    state: Mapping[str, torch.Tensor] | None = None
    report: Callable[[str], None] | None = None
    carry: Carry | None = None
    place: int = 0


class Codec(Protocol):
    """Encodes the packed keys and values of one segment.

    Where encoded keys or values do not lie on the model's device, their `tiers()` say what lies where:
    tensors by tier, "host" or "disk".

    Runs (one for each row and KV head) lie one after the other in dimension 0; `lengths` has their sizes.
    What is encoded never changes: tokens are taken and joined as they are.
    """

    @property
    def block(self) -> int:
        """Tokens of a row that leave the tail together, encoded; 0 encodes at evictions alone."""

    @property
    def residual(self) -> int:
        """Newest tokens of a row that stay in the tail as they came."""

    @property
    def needs_rotary(self) -> bool:
        """Whether `LayerFacts.turn` is called."""

    def bound(self, facts: LayerFacts) -> Codec:
        """The codec of one layer; itself where it needs to know nothing of it."""

    def encode_keys(self, keys: torch.Tensor, lengths: torch.Tensor, positions: torch.Tensor) -> Any:
        """Encoded keys `[N, d]`, which the model turned by these positions, int64 `[N]`.

        The result shares no storage with `keys`.
        """

    def encode_values(self, values: torch.Tensor, lengths: torch.Tensor) -> Any:
        """Encoded values `[N, d]`; the result shares no storage with `values`."""

    def decode(self, encoded: Any) -> torch.Tensor:
        """The tensor `[N, d]` in the model's dtype."""

    def take(self, encoded: Any, rows: torch.Tensor, lengths: torch.Tensor) -> Any:
        """The encoded tokens at these indices of dimension 0, which make runs of these lengths."""

    def join(self, parts: Sequence[Any], order: torch.Tensor, lengths: torch.Tensor) -> Any:
        """Encoded tokens of several parts, one after the other and then in this order, as one."""

    def tensors(self, encoded: Any) -> dict[str, torch.Tensor]:
        """Every tensor that is held, by name: for counting bytes, and for files."""

    def restore(self, tensors: Mapping[str, torch.Tensor], like: torch.Tensor) -> Any:
        """What `tensors` gave, as it was encoded from tokens of this tensor's dtype and last dimension."""


class DeviceCodec:
    """A codec that stores on the model's device and needs to know nothing of a layer."""

    needs_rotary: ClassVar[bool] = False

    def bound(self, facts: LayerFacts) -> Self:
        """Itself."""
        return self


@dataclass(frozen=True)
class Plain(DeviceCodec):
    """Keys and values as they came, in the model's dtype."""

    block: ClassVar[int] = 0
    residual: ClassVar[int] = 0

    def encode_keys(self, keys: torch.Tensor, lengths: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The keys, in a storage without spare room."""
        return compact(keys)

    def encode_values(self, values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The values, in a storage without spare room."""
        return compact(values)

    def decode(self, encoded: torch.Tensor) -> torch.Tensor:
        """The same tensor."""
        return encoded

    def take(self, encoded: torch.Tensor, rows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Rows of the tensor."""
        return encoded[rows]

    def join(self, parts: Sequence[torch.Tensor], order: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Rows of all tensors."""
        return torch.cat(list(parts))[order]

    def tensors(self, encoded: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensor alone."""
        return {"": encoded}

    def restore(self, tensors: Mapping[str, torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        """The tensor."""
        return tensors[""]


def compact(flat: torch.Tensor) -> torch.Tensor:
    """The tensor, copied where its storage holds more than itself."""
    # A view keeps its whole storage alive: fused projections make V a view of three or four times its bytes.
    small = flat.untyped_storage().nbytes() == flat.numel() * flat.element_size()
    return flat if small and flat.is_contiguous() else flat.clone(memory_format=torch.contiguous_format)
