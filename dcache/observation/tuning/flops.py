"""Floating-point operations of modules, counted where torch's functions are called.

torch's own counter works below autograd, where composed functions are taken apart; that may give other bits.
This one calls each function as it is, and counts what it was given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

Count = Callable[[Sequence[Any], Mapping[str, Any], torch.Tensor], int]


class FlopCount(TorchFunctionMode):
    """Counts matrix products, convolutions and attention while it is entered; two for a multiply-add.

    Attributes:
        total: operations so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function as it is, and count it."""
        output = func(*args, **(kwargs or {}))
        count = _COUNTS.get(getattr(func, "__name__", ""))
        # What a call compiles for itself (flex attention) is traced here, and not run.
        if count is not None and isinstance(output, torch.Tensor) and not torch.compiler.is_compiling():
            self.total += count(args, kwargs or {}, output)
        return output


class OtherModules:
    """Counts the operations of a pipeline's modules that are no denoisers: text encoders, VAE.

    Args:
        modules: these modules. A part of one may be called without it, as a VAE's decoder is, so their direct
            children are watched too.

    Attributes:
        counter: has the operations so far.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.counter = FlopCount()
        self._depth = 0
        watched = {id(part): part for module in modules for part in (module, *module.children())}
        self._hooks: list[RemovableHandle] = []
        for part in watched.values():
            self._hooks.append(part.register_forward_pre_hook(self._enter))
            self._hooks.append(part.register_forward_hook(self._leave, always_call=True))

    def take(self) -> int:
        """The operations since the last `take`."""
        total, self.counter.total = self.counter.total, 0
        return total

    def remove(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _enter(self, *_: Any) -> None:
        # While a compiler traces a module, this is left out of what it makes.
        if torch.compiler.is_compiling():
            return
        self._depth += 1
        if self._depth == 1:
            self.counter.__enter__()  # type: ignore[no-untyped-call]

    def _leave(self, *_: Any) -> None:
        if torch.compiler.is_compiling() or not self._depth:
            return
        self._depth -= 1
        if not self._depth:
            self.counter.__exit__(None, None, None)  # type: ignore[no-untyped-call]


def _given(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, *names: str) -> Any:
    return args[place] if len(args) > place else next(kwargs[name] for name in names if name in kwargs)


def _linear(args: Sequence[Any], kwargs: Mapping[str, Any], output: torch.Tensor) -> int:
    return 2 * output.numel() * int(_given(args, kwargs, 1, "weight").shape[1])


def _product(place: int, *names: str) -> Count:
    """Count of a matrix product whose left matrix is this argument."""

    def count(args: Sequence[Any], kwargs: Mapping[str, Any], output: torch.Tensor) -> int:
        return 2 * output.numel() * int(_given(args, kwargs, place, *names).shape[-1])

    return count


def _convolution(args: Sequence[Any], kwargs: Mapping[str, Any], output: torch.Tensor) -> int:
    return 2 * output.numel() * math.prod(_given(args, kwargs, 1, "weight").shape[1:])


def _transposed(args: Sequence[Any], kwargs: Mapping[str, Any], output: torch.Tensor) -> int:
    x = _given(args, kwargs, 0, "input")
    return 2 * int(x.numel()) * math.prod(_given(args, kwargs, 1, "weight").shape[1:])


def _attention(args: Sequence[Any], kwargs: Mapping[str, Any], output: torch.Tensor) -> int:
    query, key = _given(args, kwargs, 0, "query"), _given(args, kwargs, 1, "key")
    keys = int(key.shape[-2])
    return 2 * keys * (int(query.numel()) + output.numel())


_COUNTS: dict[str, Count] = {
    "linear": _linear,
    "matmul": _product(0, "input"),
    "__matmul__": _product(0, "input"),
    "mm": _product(0, "input"),
    "bmm": _product(0, "input"),
    "addmm": _product(1, "mat1"),
    "baddbmm": _product(1, "batch1"),
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv3d": _convolution,
    "conv_transpose1d": _transposed,
    "conv_transpose2d": _transposed,
    "conv_transpose3d": _transposed,
    "scaled_dot_product_attention": _attention,
}
