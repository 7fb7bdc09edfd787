"""Where the weights of a timed module are: on its device, or off it while its table answers."""

from __future__ import annotations

from collections.abc import Iterator
from threading import RLock

import torch
from torch import nn

# Attributes by which accelerate and diffusers mark modules whose weights they move themselves.
_MOVED_BY_OTHERS = ("_hf_hook", "_diffusers_hook")


class Weights:
    """The parameters and buffers of one module.

    Args:
        module: the module.
        away: the device that they are moved to ("cpu").

    Attributes:
        lock: held while they are moved or used.
    """

    def __init__(self, module: nn.Module, away: str) -> None:
        self.module = module
        self.away = torch.device(away)
        self.lock = RLock()
        self._home: torch.device | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(t.numel() * t.element_size() for t in self._tensors())

    @property
    def are_away(self) -> bool:
        """Whether they were moved off their device and not fetched since, by dcache or by `module.to`."""
        return self._home is not None and all(t.device == self.away for t in self._tensors())

    @property
    def movable(self) -> bool:
        """Whether nobody else moves them: no offloading hook, on the module or around it."""
        parts = list(self.module.modules())
        hooked = any(getattr(part, name, None) is not None for part in parts for name in _MOVED_BY_OTHERS)
        return not hooked and not any(tensor.device.type == "meta" for tensor in self._tensors())

    def leave(self) -> None:
        """Move them off the device."""
        with self.lock:
            if self.movable and not self.are_away:
                self._home = next((t.device for t in self._tensors()), self.away)
                self._move(self.away)

    def come_back(self) -> None:
        """Move them to their device."""
        with self.lock:
            if self.are_away and self._home is not None:
                self._move(self._home)
            self._home = None

    def _move(self, device: torch.device) -> None:
        for tensor in self._tensors():
            # The data alone: parameters keep their identity, for optimizers, adapters and state_dict.
            tensor.data = tensor.data.to(device)

    def _tensors(self) -> Iterator[torch.Tensor]:
        yield from self.module.parameters()
        yield from self.module.buffers()


def stamp(module: nn.Module) -> tuple[object, ...]:
    """What changes when a module's weights do: identity, version, dtype and shape of each.

    A device is no part of it, for weights that are moved are the same weights.
    """
    marks: list[object] = [
        (id(tensor), 0 if tensor.is_inference() else tensor._version, tensor.dtype, tensor.shape)
        for tensor in (*module.parameters(), *module.buffers())
    ]
    return tuple(marks)
