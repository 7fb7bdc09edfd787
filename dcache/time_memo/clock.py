"""The timestep of a denoiser's call, as a key; on a GPU without waiting for it where the sampler knows."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from dcache.errors import DcacheWarning
from dcache.identity.timestep import TimeArgument
from dcache.time_memo.recent import Recent

# Timesteps of many runs with tables of their own.
_MANY_TIMES = 4096
# Calls after which the GPU is waited for, to compare their timesteps with what the sampler told.
_MANY_UNREAD = 256


class Content(NamedTuple):
    """What a small tensor holds.

    Attributes:
        dtype: its dtype.
        shape: its shape.
        data: its bytes.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    data: bytes

    @property
    def uniform(self) -> bool:
        """Whether it has one value throughout."""
        size = self.dtype.itemsize
        return self.data == self.data[:size] * (len(self.data) // size)


class Clock:
    """Tells the timestep of a denoiser's call, without waiting for a GPU where the sampler knows it.

    Args:
        module: the denoiser.
        sampler: returns the pipeline's sampler, or None.

    Attributes:
        name: the timestep argument's name.
        waits: how often a timestep had to be read from a GPU.
        trusted: whether the sampler's word is taken for timesteps on a GPU.
        misled: whether it was found wrong since this was last set to False.
    """

    def __init__(self, module: nn.Module, sampler: Callable[[], Any] = lambda: None) -> None:
        self.argument, self.owner = TimeArgument(module), type(module).__name__
        self.sampler = sampler
        self.waits = 0
        self.trusted, self.misled = True, False
        self._table: tuple[weakref.ref[torch.Tensor], int, list[float]] | None = None
        self._meaning: Recent[Hashable, Content] = Recent(_MANY_TIMES)
        self._unread: list[tuple[torch.Tensor, Content]] = []

    @property
    def name(self) -> str:
        """The timestep argument's name, "" where there is none."""
        return self.argument.name or ""

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Hashable | None:
        """The timestep of a call as a key; None without one."""
        value = self.argument.argument(args, kwargs)
        if not isinstance(value, torch.Tensor):
            return None if value is None else ("number", type(value), value)
        if not self.must_wait(value):
            return content_of(value)
        step = self._by_sampler() if value.ndim <= 1 and self.trusted else None
        if step is None:
            return self.waited(value)
        key = (step, value.shape, value.dtype)
        # Pipelines scale timesteps in their own way: what an entry of the table stands for is read once.
        content = self._meaning.get(key)
        if content is None:
            content = self.waited(value)
            if not content.uniform:
                self.trusted = False
                return content
            self._meaning[key] = content
            return content
        self._unread.append((value.clone(), content))
        if len(self._unread) >= _MANY_UNREAD:
            self.verify()
        return content

    def verify(self) -> None:
        """Compare what the sampler told with the timesteps of those calls; a difference is said, once."""
        unread, self._unread = self._unread, []
        wrong = sum(content_of(value) != content for value, content in unread)
        if not wrong:
            return
        self.trusted, self.misled = False, True
        warnings.warn(
            f"{wrong} calls of {self.owner} had other timesteps than the sampler of the pipeline that "
            "dcache.memo was called with, and got outputs for that one's: their results are wrong. "
            "From now on timesteps are read from the GPU. Call dcache.memo with the pipeline that runs.",
            DcacheWarning,
            stacklevel=2,
        )

    def must_wait(self, value: torch.Tensor) -> bool:
        """Whether reading this tensor waits for a device."""
        return value.device.type != "cpu"

    def waited(self, value: torch.Tensor) -> Content:
        """What a tensor holds; counted where that waits for a device."""
        self.waits += self.must_wait(value)
        if self._unread:
            # The GPU is waited for anyway.
            self.verify()
        return content_of(value)

    def _by_sampler(self) -> tuple[str, float] | None:
        """Class name of the sampler, and the entry of its table that it stands at."""
        sampler = self.sampler()
        table, index = getattr(sampler, "timesteps", None), getattr(sampler, "step_index", None)
        if not isinstance(table, torch.Tensor) or not isinstance(index, int) or not 0 <= index < len(table):
            return None
        if table.is_inference():
            # Writes to it are not counted.
            return None
        known = self._table
        if known is None or known[0]() is not table or known[1] != table._version:
            known = self._table = (weakref.ref(table), table._version, table.tolist())
        return type(sampler).__name__, known[2][index]


def content_of(value: torch.Tensor) -> Content:
    """What a tensor holds, as a key; waits for its device."""
    return Content(value.dtype, tuple(value.shape), bytes(bits_of(value.detach().cpu()).numpy()))


def bits_of(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of a tensor's elements as bytes, uint8 (N,)."""
    # A copy, for a view as bytes needs strides of 1.
    return tensor.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8)
