"""What a call of a module writes into the module itself: keys and values, attention maps, running buffers.

Predicted calls do not run the parts that write. Parameters and plain values do not count, nor does what is
written once and for all, such as a table that the first call makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import nn

from dcache.intercept.effects import state_of
from dcache.intercept.objects import PLAIN, attributes_of

# Attributes that torch, wrappers and offloading put on every module; buffers are looked at apart.
_NOT_ITS_OWN = {*vars(nn.Module()), "_hf_hook", "_diffusers_hook", "_old_forward", "forward"}
# Intercepts hold the engine.
_INTERCEPTED = {"_compiled_call_impl", "compile", "cache_context"}
# Objects within a module, such as attention processors and their stores, are looked into this deep.
_LEVELS = 4


class Place(NamedTuple):
    """Where a module holds a tensor, or a tuple of them.

    Attributes:
        owner: a dict (of attributes, of buffers, or any other) or a list.
        key: key or index in it.
        value: the tensor, or the tuple.
    """

    owner: Any
    key: Any
    value: Any

    @property
    def name(self) -> tuple[int, Any]:
        """What the place is known by."""
        return id(self.owner), self.key


class Rewrites(Enum):
    """What every call does to tensors that a module holds.

    Attributes:
        NOTHING: only the first one wrote: it prepared something.
        REPLACES: it puts others in their places; whether anything reads them behind the call is not known.
        ADDS: it writes into them, or adds more, so that they depend on every call before.
    """

    NOTHING, REPLACES, ADDS = range(3)


class OwnState:
    """The tensors that a module and its parts hold in buffers, attributes, containers and objects.

    Args:
        module: the module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._before = {place.name: place for place in _places(module)}
        self._states = {
            name: state_of(place.value)
            for name, place in self._before.items()
            if isinstance(place.value, torch.Tensor)
        }

    def written(self) -> list[Place]:
        """Places that hold another tensor than before, or one that was written into."""
        return [place for place in _places(self.module) if self._is_new(place) or self._is_changed(place)]

    def rewrites(self, call: Callable[[], Any]) -> Rewrites:
        """Whether a further call writes again, so that the first one was no preparation; it is undone.

        Args:
            call: makes the call.
        """
        if any(self._is_changed(place) for place in _places(self.module)):
            # In place: it could not be undone.
            return Rewrites.ADDS
        again = OwnState(self.module)
        try:
            call()
        except Exception:
            # Such as keys of the first call that those of the second do not go with.
            return Rewrites.ADDS
        finally:
            written = again.written()
            again._put_back(written)
        if any(place.name not in again._before or again._is_changed(place) for place in written):
            return Rewrites.ADDS
        return Rewrites.REPLACES if written else Rewrites.NOTHING

    def _is_new(self, place: Place) -> bool:
        before = self._before.get(place.name)
        return before is None or before.value is not place.value

    def _is_changed(self, place: Place) -> bool:
        return not self._is_new(place) and self._states.get(place.name) != (
            state_of(place.value) if isinstance(place.value, torch.Tensor) else None
        )

    def _put_back(self, places: list[Place]) -> None:
        # From the end of lists, so that indices stay.
        for place in reversed(places):
            before = self._before.get(place.name)
            if before is not None:
                place.owner[place.key] = before.value
            else:
                del place.owner[place.key]


def _places(module: nn.Module) -> Iterator[Place]:
    seen = set[int]()
    for part in module.modules():
        # Offloading gives a part its buffers for the time of each call.
        if "_hf_hook" not in vars(part):
            for key, buffer in part._buffers.items():
                if buffer is not None:
                    yield Place(part._buffers, key, buffer)
        for key, value in list(vars(part).items()):
            if key not in _NOT_ITS_OWN and key not in _INTERCEPTED:
                yield from _within(vars(part), key, value, seen, _LEVELS)


def _within(owner: Any, key: Any, value: Any, seen: set[int], levels: int) -> Iterator[Place]:
    if isinstance(value, torch.Tensor) or (
        isinstance(value, tuple) and any(isinstance(item, torch.Tensor) for item in value)
    ):
        yield Place(owner, key, value)
        return
    if not levels or isinstance(value, PLAIN) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, list):
        for i, item in enumerate(list(value)):
            yield from _within(value, i, item, seen, levels - 1)
        return
    parts = value if isinstance(value, dict) else attributes_of(value)
    # Attributes in slots cannot be set through a dict.
    if isinstance(parts, dict) and (parts is value or hasattr(value, "__dict__")):
        for name, item in list(parts.items()):
            yield from _within(parts, name, item, seen, levels - 1)
