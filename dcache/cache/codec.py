"""Codecs: what is remembered of a site's input `x` and output `y`.

A codec works leaf by leaf. On a compute step `open(x)` runs before the site and `close(opened, y)` after it;
the result `z` is stored. On a predicted step the prediction is `base(x) + sum_i w_i z_i`. A codec never
aliases what the model sees: the stored tensor is always our own memory, that of an older one where it fits.

| name             | z                                        | prediction            |
|------------------|------------------------------------------|-----------------------|
| `value`          | y                                        | sum w_i z_i           |
| `delta`          | y - x                                    | x + sum w_i z_i       |
| `value:bfloat16` | y, cast                                  | as value, cast back   |
| `delta:float16`  | y - x, cast                              | as delta, cast back   |
| `delta:int8`     | y - x, one byte and a scale for each row | as delta, unpacked    |
| `value:fp8`      | y, the same in float8_e4m3fn             | as value, unpacked    |
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from dcache.errors import DcacheError
from dcache.kernels.packed import Packed, Stored
from dcache.kernels.store import empty, store

_FRAMES = ("value", "delta")
_STORES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
    "fp8": torch.float8_e4m3fn,
}
# Other spellings.
_ALIASES = {"float8_e4m3fn": "fp8"}


@dataclass(frozen=True)
class Codec:
    """How one leaf is remembered.

    Args:
        frame: `value` stores the output, `delta` stores output minus input (same shape needed).
        store: dtype of the stored tensor, or None to keep the output's; int8 and float8_e4m3fn come with a
            scale for each row (`dcache.kernels.packed`). What is no floating-point tensor keeps its own.

    Attributes:
        is_delta: whether the fresh input takes part in the prediction.
    """

    frame: str
    store: torch.dtype | None = None
    is_delta: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """A field, since it is asked for on every prediction."""
        object.__setattr__(self, "is_delta", self.frame == "delta")

    @property
    def name(self) -> str:
        """The spelling `parse` reads back."""
        if self.store is None:
            return self.frame
        return f"{self.frame}:{next(name for name, store in _STORES.items() if store == self.store)}"

    def open(self, x: torch.Tensor | None, slot: Stored | None = None) -> torch.Tensor | None:
        """Take what `close` will need of the input before the site may overwrite it.

        Args:
            x: the input, or None where the leaf continues none.
            slot: memory for what will be stored, or None; what is taken lies in it where it fits.
        """
        if not self.is_delta or x is None:
            return None
        if x.requires_grad:
            x = x.detach()
        own = self._kept_in(x.dtype) == x.dtype
        if not own or not isinstance(slot, torch.Tensor) or not _fits(slot, x, x.dtype):
            slot = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        return torch.neg(x, out=slot)

    def close(self, opened: torch.Tensor | None, y: torch.Tensor, slot: Stored | None = None) -> Stored:
        """What is to be stored: of the shape of `y`, in memory of our own.

        Args:
            opened: what `open` took.
            y: the output.
            slot: as `open` was given; it is written where it fits.

        Raises:
            DcacheError: the device has no such dtype.
        """
        if y.requires_grad:
            y = y.detach()
        # What lies in the slot already fits it.
        if slot is None or slot is not opened:
            own = y.dtype if opened is None else opened.dtype
            kept = self._kept_in(own)
            if slot is None or not _fits(slot, y, kept):
                slot = opened if opened is not None and kept == own else _empty(y, kept)
        if opened is not None and slot is not opened and isinstance(slot, torch.Tensor) and not y.is_cuda:
            # Without a fused kernel the difference needs memory, and that of the input is there.
            y, opened = opened.add_(y), None
        store(y, opened, slot)
        return slot

    def _kept_in(self, own: torch.dtype) -> torch.dtype:
        return self.store if self.store is not None and own.is_floating_point else own


def parse(name: str | Codec) -> Codec:
    """Read `value`, `delta`, or either with a store dtype behind a colon.

    Raises:
        DcacheError: the name is unknown.
    """
    if isinstance(name, Codec):
        return name
    frame, _, kept = str(name).partition(":")
    kept = _ALIASES.get(kept, kept)
    if frame not in _FRAMES or (kept and kept not in _STORES):
        raise DcacheError(
            f"codec {name!r} is unknown: expected one of {', '.join(_FRAMES)}, each optionally with a store "
            f"dtype behind a colon ({', '.join(_STORES)}), as in 'delta:bfloat16'"
        )
    return Codec(frame, _STORES.get(kept))


def _fits(slot: Stored, like: torch.Tensor, kept: torch.dtype) -> bool:
    """Whether memory can take a tensor like this one, kept in this dtype."""
    if isinstance(slot, Packed) and slot.dtype != like.dtype:
        return False
    data = slot.data if isinstance(slot, Packed) else slot
    return (
        data.dtype == kept
        and data.shape == like.shape
        and data.device == like.device
        and data.is_contiguous()
        # What was made in inference mode cannot be written outside of it.
        and (torch.is_inference_mode_enabled() or not data.is_inference())
    )


def _empty(like: torch.Tensor, kept: torch.dtype) -> Stored:
    if kept == torch.float8_e4m3fn and like.device.type == "mps":
        raise DcacheError("Apple's devices have no float8: use 'int8' instead of 'fp8' in the codec")
    return empty(like, kept)
