"""Where the weights of a timed module are: on its device, or off it while its table answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from threading import RLock
from typing import Any

import torch
from torch import nn

from dcache.errors import DcacheError
from dcache.time_memo.checkpoint import Checkpoint
from dcache.time_memo.state import Guard
from dcache.util.bytes import bytes_of_elements

# Attributes by which accelerate and diffusers mark modules whose weights they move themselves.
_MOVED_BY_OTHERS = ("_hf_hook", "_diffusers_hook")
_HOST = torch.device("cpu")
# Bytes: kernels of the CPU may round otherwise where a tensor's address has another remainder.
_LINE = 64


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
        self.nbytes = bytes_of_elements(tensor for _, tensor in self._tensors())
        self._home: torch.device | None = None
        # One of them, once all have left.
        self._sample: torch.Tensor | None = None
        self._around: Sequence[nn.Module] = ()
        self._tied = False
        # As they were before they were dropped: dtype, and remainder of the address.
        self._dropped: dict[str, tuple[torch.dtype, int]] = {}
        self._guards: list[Any] = []

    @property
    def are_away(self) -> bool:
        """Whether they were moved off their device and not fetched since, by dcache or by `module.to`."""
        return self._home is not None and all(t.device == _HOST for _, t in self._tensors())

    @property
    def movable(self) -> bool:
        """Whether nobody else moves or has them: no offloading hook here or around, no layer tied to them."""
        parts = list(self.module.modules())
        hooked = any(getattr(part, name, None) is not None for part in parts for name in _MOVED_BY_OTHERS)
        hooked = hooked or any(_moves_all_inside(part) for part in self._around)
        return not (hooked or self._tied or any(tensor.is_meta for _, tensor in self._tensors()))

    def place(self, model: nn.Module, holders: Mapping[int, int]) -> None:
        """Learn where in the denoiser the module is.

        Args:
            model: the denoiser.
            holders: `holders_of` the denoiser.
        """
        names = self.name.split(".")[:-1]
        self._around = [model, *(model.get_submodule(".".join(names[: i + 1])) for i in range(len(names)))]
        self._tied = any(holders.get(key, 0) > count for key, count in holders_of(self.module).items())

    def leave(self) -> None:
        """Move them off the device."""
        # In most calls they are away, and `module.to` moves all of them or none.
        if self._sample is not None and self._sample.device == _HOST:
            return
        with self.lock:
            if not self.movable:
                return
            tensors = [tensor for _, tensor in self._tensors()]
            devices = [tensor.device for tensor in tensors if tensor.device != _HOST]
            self._home = devices[0] if devices else self._home or _HOST
            if self.checkpoint is not None and not self._guards:
                # Before anything is freed, so that an interrupt leaves nothing unguarded. A copy of the
                # module has the guards too.
                guard = _Refusal(self.name)
                self._dropped = {name: (t.dtype, t.data_ptr() % _LINE) for name, t in self._tensors()}
                self._guards = [
                    self.module.register_state_dict_pre_hook(guard),  # type: ignore[no-untyped-call]
                    self.module.register_forward_pre_hook(guard),
                ]
            for tensor in tensors:
                # The data alone: parameters keep their identity, for optimizers, adapters and state_dict.
                tensor.data = tensor.data.to(_HOST) if self.checkpoint is None else _nothing_like(tensor)
            self._sample = tensors[-1] if tensors else None

    def come_back(self) -> None:
        """Move them to their device, or read them again.

        Raises:
            DcacheError: their file cannot be read any more.
        """
        with self.lock:
            if self._home is None:
                return
            for name, tensor in self._tensors():
                if self._guards and self.checkpoint is not None:
                    # Rounded as they were, though the model may have another dtype by now.
                    dtype, remainder = self._dropped[name]
                    stored = self.checkpoint.read(f"{self.name}.{name}").to(dtype)
                    placed = _at(stored, remainder) if self._home == _HOST else stored
                    tensor.data = placed.to(self._home, tensor.dtype)
                elif tensor.device == _HOST:
                    tensor.data = tensor.data.to(self._home)
            for guard in self._guards:
                guard.remove()
            self._home, self._sample, self._guards = None, None, []

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self.module.named_parameters()
        yield from self.module.named_buffers()


def holders_of(module: nn.Module) -> Counter[int]:
    """Id of a parameter or buffer -> how many submodules have it."""
    return Counter(
        id(tensor)
        for part in module.modules()
        for tensor in (*part._parameters.values(), *part._buffers.values())
        if tensor is not None
    )


def _moves_all_inside(module: nn.Module) -> bool:
    """Whether a hook of diffusers moves weights of submodules too (block-level group offloading)."""
    return "group_offloading" in getattr(module.__dict__.get("_diffusers_hook"), "hooks", ())


def _nothing_like(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of that shape that holds one number."""
    fill = float("nan") if tensor.is_floating_point() else 0
    return torch.full((1,) * tensor.ndim, fill, dtype=tensor.dtype).expand(tensor.shape)


def _at(tensor: torch.Tensor, remainder: int) -> torch.Tensor:
    """The tensor of the CPU at an address with this remainder: a file's tensors lie anywhere."""
    if tensor.data_ptr() % _LINE == remainder:
        return tensor
    room = torch.empty(tensor.nbytes + _LINE, dtype=torch.uint8)
    begin = (remainder - room.data_ptr()) % _LINE
    return room[begin : begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)


class _Refusal(Guard):
    """A hook that refuses to use weights that were dropped.

    Args:
        name: the module's name.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_: Any) -> None:
        """Raise a DcacheError."""
        raise DcacheError(
            f"the weights of {self.name} were dropped by dcache.memo(offload='drop'). Call dcache.disable "
            "first, which reads them again."
        )
