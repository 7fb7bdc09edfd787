"""`LayerTaps`: hooks on a model's layers, for observers that change which rows a layer computes."""

from __future__ import annotations

from typing import Any

from torch import nn

from dcache.diffusion_lm.passes import Pass, current
from dcache.errors import DcacheError


class LayerTaps:
    """Hooks that show each layer of a pass to the pass's observer.

    Args:
        model: the model; the hooks stay until `remove`.

    Attributes:
        count: how many layers it has.

    Raises:
        DcacheError: it has no list of layers.
    """

    def __init__(self, model: nn.Module) -> None:
        layers = decoder_layers(model)
        self.count = len(layers)
        self._handles: list[Any] = []
        for index, layer in enumerate(layers):
            self._handles.append(layer.register_forward_pre_hook(_entered(index), with_kwargs=True))
            self._handles.append(layer.register_forward_hook(_left(index)))

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The model's layers: the list of modules with the most parameters.

    Raises:
        DcacheError: there is none.
    """
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part)]
    if not lists:
        raise DcacheError(f"{type(model).__name__} has no list of layers, between which rows could be chosen")
    largest = max(lists, key=lambda part: sum(parameter.numel() for parameter in part.parameters()))
    return list(largest)


def _entered(layer: int) -> Any:
    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        forward = _observed()
        return None if forward is None else forward.observer.enter(forward, layer, module, args, kwargs)  # type: ignore[union-attr]

    return enter


def _left(layer: int) -> Any:
    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        forward = _observed()
        return None if forward is None else forward.observer.leave(forward, layer, output)  # type: ignore[union-attr]

    return leave


def _observed() -> Pass | None:
    """The pass that runs in this thread, where it has an observer."""
    forward = current()
    return forward if forward is not None and forward.observer is not None else None
