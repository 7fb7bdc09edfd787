"""What outputs of modules depend on besides their inputs, as marks that are cheap to compare."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from dcache.intercept.module_call import compiled_inside

_NO_MARKS: tuple[object, ...] = ()


class State:
    """Sees that weights, submodules, hooks or compiled calls of modules were changed.

    A library that fuses an adapter writes through `weight.data`, which no version counts. It puts layers in
    the place of others for that, so every such replacement in a watched module counts as a change, also one
    that was undone since. A device is no part of the state: weights that are moved are the same weights.

    Args:
        replaced: called when a watched module is given a submodule, before anything is done with that.
    """

    def __init__(self, replaced: Callable[[], None] = lambda: None) -> None:
        self._replaced = replaced
        self._whole: list[nn.Module] = []
        self._all: list[nn.Module] = []
        self._addresses: set[int] = set()
        self._tensors: list[weakref.ref[torch.Tensor]] = []
        self._marks = _NO_MARKS
        self._stale = False
        handle = register_module_module_registration_hook(_observer(weakref.ref(self)))
        self._unregister = weakref.finalize(self, handle.remove)

    @property
    def changed(self) -> bool:
        """Whether anything was changed since `watch`."""
        return self._stale or self._marks != self._now()

    def watch(self, whole: Iterable[nn.Module], around: Iterable[nn.Module] = ()) -> None:
        """Take the state as it is now.

        Args:
            whole: modules that are watched with all that is in them.
            around: modules that hold these, of which only parameters and places for submodules are watched.
        """
        self._whole = list({id(part): part for module in whole for part in module.modules()}.values())
        known = {id(part) for part in self._whole}
        self._all = [*self._whole, *(module for module in around if id(module) not in known)]
        self._addresses = {id(module) for module in self._all}
        # The address of a tensor that is gone may be given to another one.
        self._tensors = [
            weakref.ref(tensor, self._gone)
            for module in self._all
            for tensor in (*module._parameters.values(), *module._buffers.values())
            if tensor is not None and not tensor.is_meta
        ]
        self._marks, self._stale = self._now(), False

    def close(self) -> None:
        """Watch nothing any more."""
        self.watch(())
        self._unregister()

    def registered(self, module: nn.Module) -> None:
        """A module was given a submodule."""
        if id(module) in self._addresses:
            self._stale = True
            self._replaced()

    def _gone(self, _reference: Any) -> None:
        self._stale = True

    def _now(self) -> tuple[object, ...]:
        marks: list[object] = []
        for module in self._whole:
            # What else a call of the module runs: hooks, a forward of its own, the mode.
            content = module.__dict__
            marks.append((content["training"], id(content.get("forward"))))
            for hooks in (content["_forward_hooks"], content["_forward_pre_hooks"]):
                if hooks:
                    marks.extend(id(hook) for hook in hooks.values() if not isinstance(hook, Guard))
        for module in self._all:
            _add_marks(marks, module, module.__dict__)
        return tuple(marks)


class Guard:
    """Base of dcache's own hooks, which are no part of a module's state."""


def stateful(module: nn.Module) -> set[int]:
    """Ids of submodules whose outputs depend on more than weights: with hooks, adapters and their layers.

    The scales and switches of adapters (LoRA) are no parameters, and fusing them writes through `.data`.
    """
    parts = [part for name, part in module.named_modules() if name]
    adapted = (inner for part in parts if hasattr(part, "base_layer") for inner in part.modules())
    hooked = (part for part in parts if part._forward_hooks or part._forward_pre_hooks)
    return {id(part) for part in (*adapted, *hooked)}


def _observer(reference: weakref.ref[State]) -> Callable[..., None]:
    def note(module: nn.Module, _name: str, _submodule: nn.Module | None) -> None:
        state = reference()
        if state is not None:
            state.registered(module)

    return note


def _add_marks(marks: list[object], module: nn.Module, content: dict[str, Any]) -> None:
    """Identity, version, dtype and shape of each tensor; submodules; the compiled call."""
    for tensors in (content["_parameters"], content["_buffers"]):
        for tensor in tensors.values():
            if tensor is None:
                continue
            if tensor.is_meta:
                # Weights that accelerate offloads are other objects after every call.
                marks.append((id(content.get("_hf_hook")), tensor.dtype, tensor.shape))
            else:
                version = 0 if tensor.is_inference() else tensor._version
                marks.append((id(tensor), version, tensor.dtype, tensor.shape))
    if content["_modules"]:
        marks.append(tuple(map(id, content["_modules"].values())))
    if content.get("_compiled_call_impl") is not None:
        marks.append(id(compiled_inside(module)))
