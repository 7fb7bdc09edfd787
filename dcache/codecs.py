"""Codecs: what is remembered of a site's input `x` and output `y`.

A codec works leaf by leaf. On a compute step `open(x)` runs before the site and `close(opened, y)` after it;
the result `z` is stored. On a predicted step the prediction is `base(x) + sum_i w_i z_i`. A codec never
aliases what the model sees: the stored tensor is always our own memory.

| name             | z            | prediction            |
|------------------|--------------|-----------------------|
| `value`          | y            | sum w_i z_i           |
| `delta`          | y - x        | x + sum w_i z_i       |
| `value:bfloat16` | y, cast      | as value, cast back   |
| `delta:float16`  | y - x, cast  | as delta, cast back   |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dcache.errors import DcacheError

_FRAMES = ("value", "delta")
_STORES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Codec:
    """How one leaf is remembered.

    Args:
        frame: `value` stores the output, `delta` stores output minus input (same shape needed).
        store: dtype of the stored tensor, or None to keep the output's.
    """

    frame: str
    store: torch.dtype | None = None

    @property
    def name(self) -> str:
        """The spelling `parse` reads back."""
        if self.store is None:
            return self.frame
        return f"{self.frame}:{str(self.store).removeprefix('torch.')}"

    @property
    def is_delta(self) -> bool:
        """Whether the fresh input takes part in the prediction."""
        return self.frame == "delta"

    def open(self, x: torch.Tensor | None) -> torch.Tensor | None:
        """Take what `close` will need of the input before the site may overwrite it."""
        return torch.neg(x) if self.is_delta and x is not None else None

    def close(self, opened: torch.Tensor | None, y: torch.Tensor) -> torch.Tensor:
        """The tensor to store; shape of `y`, memory of our own."""
        z = y.clone(memory_format=torch.contiguous_format) if opened is None else opened.add_(y)
        return z if self.store is None else z.to(self.store)


def parse(name: str | Codec) -> Codec:
    """Read `value`, `delta`, or either with a store dtype behind a colon.

    Raises:
        DcacheError: the name is unknown.
    """
    if isinstance(name, Codec):
        return name
    frame, _, store = str(name).partition(":")
    if frame not in _FRAMES or (store and store not in _STORES):
        raise DcacheError(
            f"codec {name!r} is unknown: expected one of {', '.join(_FRAMES)}, each optionally with a store "
            f"dtype behind a colon ({', '.join(_STORES)}), as in 'delta:bfloat16'"
        )
    return Codec(frame, _STORES.get(store))
