"""Where the weights of a timed module are: on its device, or off it while its table answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import RLock
from typing import Any

import torch
from torch import nn

from dcache.errors import DcacheError
from dcache.time_memo.checkpoint import Checkpoint

# Attributes by which accelerate and diffusers mark modules whose weights they move themselves.
_MOVED_BY_OTHERS = ("_hf_hook", "_diffusers_hook")
_HOST = torch.device("cpu")


class Weights:
    """The parameters and buffers of one module.

    Args:
        name: the module's name in the denoiser.
        module: the module.
        checkpoint: what they are read from again after they were freed; None where they go to the host.

    Attributes:
        lock: held while they are moved or used.
    """

    def __init__(self, name: str, module: nn.Module, checkpoint: Checkpoint | None = None) -> None:
        self.name, self.module, self.checkpoint = name, module, checkpoint
        self.lock = RLock()
        self._home: torch.device | None = None
        self._guards: list[Any] = []

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(t.numel() * t.element_size() for _, t in self._tensors())

    @property
    def are_away(self) -> bool:
        """Whether they were moved off their device and not fetched since, by dcache or by `module.to`."""
        return self._home is not None and all(t.device == _HOST for _, t in self._tensors())

    @property
    def movable(self) -> bool:
        """Whether nobody else moves them: no offloading hook on the module."""
        parts = list(self.module.modules())
        hooked = any(getattr(part, name, None) is not None for part in parts for name in _MOVED_BY_OTHERS)
        return not hooked and not any(tensor.device.type == "meta" for _, tensor in self._tensors())

    def leave(self) -> None:
        """Move them off the device."""
        with self.lock:
            if self.are_away or not self.movable:
                return
            self._home = next((tensor.device for _, tensor in self._tensors()), _HOST)
            for _, tensor in self._tensors():
                # The data alone: parameters keep their identity, for optimizers, adapters and state_dict.
                tensor.data = tensor.data.to(_HOST) if self.checkpoint is None else _nothing_like(tensor)
            if self.checkpoint is not None:
                # A copy of the module has the guards too.
                guard = _refusal(self.name)
                self._guards = [
                    self.module.register_state_dict_pre_hook(guard),  # type: ignore[no-untyped-call]
                    self.module.register_forward_pre_hook(guard),
                ]

    def come_back(self) -> None:
        """Move them to their device, or read them again.

        Raises:
            DcacheError: their file cannot be read any more.
        """
        with self.lock:
            if self._home is not None and (self._guards or self.are_away):
                for name, tensor in self._tensors():
                    data = tensor.data
                    if self.checkpoint is not None:
                        data = self.checkpoint.read(f"{self.name}.{name}").to(tensor.dtype)
                    tensor.data = data.to(self._home)
            for guard in self._guards:
                guard.remove()
            self._home, self._guards = None, []

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self.module.named_parameters()
        yield from self.module.named_buffers()


def stamp(module: nn.Module) -> tuple[object, ...]:
    """What changes when a module's weights do: identity, version, dtype and shape of each.

    A device is no part of it, for weights that are moved are the same weights.
    """
    marks: list[object] = [
        (id(tensor), 0 if tensor.is_inference() else tensor._version, tensor.dtype, tensor.shape)
        for tensor in (*module.parameters(), *module.buffers())
    ]
    return tuple(marks)


def _nothing_like(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of that shape that holds one number."""
    fill = float("nan") if tensor.is_floating_point() else 0
    return torch.full((1,) * tensor.ndim, fill, dtype=tensor.dtype).expand(tensor.shape)


def _refusal(name: str) -> Callable[..., None]:
    def refuse(*_: Any) -> None:
        raise DcacheError(
            f"the weights of {name} were dropped by dcache.memo(offload='drop'). Call dcache.disable first, "
            "which reads them again."
        )

    return refuse
