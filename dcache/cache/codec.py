"""Codecs: how a site's input `x` and output `y` are stored as an anchor `z`.

A codec works on one tensor of the output at a time. On a compute step `open(x)` runs before the site and
`close(opened, y)` after it; the result `z` is stored. On a predicted step the prediction is
`base(x) + sum_i w_i z_i`. The stored tensor never shares memory with a tensor of the model; it reuses the
memory of a replaced anchor where that fits.

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
    """How one output tensor is stored.

    Args:
        frame: `value` stores the output, `delta` stores output minus input, which need the same shape.
        store: dtype of the stored tensor, or None to keep the output's; int8 and float8_e4m3fn come with a
            scale for each row (`dcache.kernels.packed`). Tensors that are not floating-point keep their
            dtype.

    Attributes:
        is_delta: True if the prediction adds the fresh input.
    """

    frame: str
    store: torch.dtype | None = None
    is_delta: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A field instead of a property, because every prediction reads it.
        object.__setattr__(self, "is_delta", self.frame == "delta")

    @property
    def name(self) -> str:
        """The codec's name, as `parse` reads it."""
        if self.store is None:
            return self.frame
        return f"{self.frame}:{next(name for name, store in _STORES.items() if store == self.store)}"

    def open(self, x: torch.Tensor | None, slot: Stored | None = None) -> torch.Tensor | None:
        """Copy the negated input under `delta`, since the site may overwrite its input.

        Args:
            x: the input, or None where the output continues none.
            slot: memory for the anchor, or None; the copy is written there if it fits.

        Returns:
            -x, or None if `close` needs no input.
        """
        if not self.is_delta or x is None:
            return None
        if x.requires_grad:
            x = x.detach()
        same_dtype = self._stored_dtype(x.dtype) == x.dtype
        if not same_dtype or not isinstance(slot, torch.Tensor) or not _fits(slot, x, x.dtype):
            slot = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        return torch.neg(x, out=slot)

    def close(self, opened: torch.Tensor | None, y: torch.Tensor, slot: Stored | None = None) -> Stored:
        """The anchor's tensor, of the shape of `y` and in memory that the model does not use.

        Args:
            opened: the result of `open`.
            y: the output.
            slot: the memory that `open` was given; it is overwritten if it fits.

        Raises:
            DcacheError: the device has no such dtype.
        """
        if y.requires_grad:
            y = y.detach()
        # Where `open` wrote into the slot, the slot is known to fit.
        if slot is None or slot is not opened:
            dtype = y.dtype if opened is None else opened.dtype
            stored = self._stored_dtype(dtype)
            if slot is None or not _fits(slot, y, stored):
                slot = opened if opened is not None and stored == dtype else _empty(y, stored)
        if opened is not None and slot is not opened and isinstance(slot, torch.Tensor) and not y.is_cuda:
            # Without a fused kernel the difference needs memory: reuse that of the copied input.
            y, opened = opened.add_(y), None
        store(y, opened, slot)
        return slot

    def _stored_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return self.store if self.store is not None and dtype.is_floating_point else dtype


def parse(name: str | Codec) -> Codec:
    """The codec of a name: `value`, `delta`, or either with a store dtype after a colon.

    Raises:
        DcacheError: the name is unknown.
    """
    if isinstance(name, Codec):
        return name
    frame, colon, store = str(name).partition(":")
    store = _ALIASES.get(store, store)
    if frame not in _FRAMES or (colon and store not in _STORES):
        raise DcacheError(
            f"codec {name!r} is unknown: expected one of {', '.join(_FRAMES)}, each optionally with a store "
            f"dtype behind a colon ({', '.join(_STORES)}), as in 'delta:bfloat16'"
        )
    return Codec(frame, _STORES.get(store))


def _fits(slot: Stored, like: torch.Tensor, stored: torch.dtype) -> bool:
    """True if `slot` can hold a tensor of the shape and device of `like`, stored in dtype `stored`."""
    if isinstance(slot, Packed) and slot.dtype != like.dtype:
        return False
    data = slot.data if isinstance(slot, Packed) else slot
    return (
        data.dtype == stored
        and data.shape == like.shape
        and data.device == like.device
        and data.is_contiguous()
        # Tensors made in inference mode cannot be written outside of it.
        and (torch.is_inference_mode_enabled() or not data.is_inference())
    )


def _empty(like: torch.Tensor, stored: torch.dtype) -> Stored:
    if stored == torch.float8_e4m3fn and like.device.type == "mps":
        raise DcacheError("Apple's devices have no float8: use 'int8' instead of 'fp8' in the codec")
    return empty(like, stored)
