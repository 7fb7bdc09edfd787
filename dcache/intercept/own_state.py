"""What a call of a module writes into the module itself: keys and values, attention maps, running buffers.

Predicted calls do not run the parts that write. Parameters and plain values do not count, nor does what is
written once and for all, such as a table that the first call makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import nn

from dcache.intercept.effects import state_of
from dcache.intercept.objects import PLAIN, attributes_of

# Attributes that torch, wrappers and offloading put on every module; buffers are looked at apart.
_NOT_ITS_OWN = {*vars(nn.Module()), "_hf_hook", "_diffusers_hook", "_old_forward", "forward"}
# Intercepts hold the engine.
_INTERCEPTED = {"_compiled_call_impl", "compile", "cache_context"}
# Bytes of the largest buffer whose content is looked at: quantised weights are buffers too.
_MOST_BYTES = 2**20
# Objects within a module, such as attention processors and their stores, are looked into this deep.
_LEVELS = 4


@dataclass(frozen=True)
class Place:
    """Where a module holds something that is or may hold tensors.

    Attributes:
        owner: a dict (of attributes, of buffers, or any other) or a list.
        key: key or index in it.
        value: a tensor, a tuple of them, a container or an object.
        parent: the place of the owner, None where that is a module's own dict.
        in_object: whether the place lies in an object that is no module.
    """

    owner: Any
    key: Any
    value: Any
    parent: Place | None = None
    in_object: bool = False

    @property
    def name(self) -> tuple[int, Any]:
        """Identity of the owner, and the key: equal for the same place at two times."""
        return id(self.owner), self.key

    @property
    def tensors(self) -> Sequence[torch.Tensor]:
        """The tensors that lie here, without those deeper in."""
        items = self.value if isinstance(self.value, tuple) else (self.value,)
        return [item for item in items if isinstance(item, torch.Tensor)]


class Rewrites(Enum):
    """Effect of every call on the tensors that a module holds.

    Attributes:
        NOTHING: only the first one wrote: it prepared something.
        REPLACES: it sets attributes anew; whether anything reads them behind the call is not known.
        ADDS: it writes into tensors, or holds more of them, so that they depend on every call before; or it
            fills an object, such as an attention processor that stores maps, for others to read.
    """

    NOTHING, REPLACES, ADDS = range(3)


class OwnState:
    """The tensors that a module and its parts hold in buffers, attributes, containers and objects.

    Args:
        module: the module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        # They keep their owners, whose identities are therefore not used again.
        self._before = {place.name: place for place in _places(module)}
        self._owners = {id(place.owner) for place in self._before.values()}
        self._owners |= {id(_parts_of(place.value)) for place in self._before.values()}
        tensors = [tensor for place in self._before.values() for tensor in place.tensors]
        self._states = {id(tensor): state_of(tensor, _MOST_BYTES) for tensor in tensors}

    def written(self) -> list[Place]:
        """Places that hold other contents than before: new tensors, or some that were written into."""
        return [place for place in self._changed() if not self._is_equal(place)]

    def _changed(self) -> list[Place]:
        """Places that hold tensors which were not there before, or which were written into."""
        places: dict[tuple[int, Any], Place] = {}
        for place in _places(self.module):
            if any(self._states.get(id(tensor)) != state_of(tensor, _MOST_BYTES) for tensor in place.tensors):
                outer = place
                # In a container that is new, which is taken out as a whole.
                while id(outer.owner) not in self._owners and outer.parent is not None:
                    outer = outer.parent
                places[outer.name] = outer
        return list(places.values())

    def rewrites(self, call: Callable[[], Any]) -> Rewrites:
        """Whether a further call writes again, so that the first one was no preparation; it is undone.

        Args:
            call: makes the call.
        """
        if any(self._is_written_into(place) for place in self.written()):
            # It could not be undone.
            return Rewrites.ADDS
        again = OwnState(self.module)
        try:
            call()
        except Exception:
            # Such as keys of the first call that those of the second do not go with.
            return Rewrites.ADDS
        finally:
            # The same call makes equal tensors.
            written = again._changed()
            again._put_back(written)
        if any(
            place.in_object or again._is_written_into(place) or again._is_more(place) for place in written
        ):
            return Rewrites.ADDS
        return Rewrites.REPLACES if written else Rewrites.NOTHING

    def _is_written_into(self, place: Place) -> bool:
        before = self._before.get(place.name)
        return before is not None and before.value is place.value and bool(place.tensors)

    def _is_equal(self, place: Place) -> bool:
        """Whether a tensor was replaced by one of the same content (a table that is made anew)."""
        before = self._before.get(place.name)
        first, second = None if before is None else before.value, place.value
        if not isinstance(first, torch.Tensor) or not isinstance(second, torch.Tensor) or first is second:
            return False
        if (first.dtype, first.device) != (second.dtype, second.device):
            return False
        old, new = self._states[id(first)], state_of(second, _MOST_BYTES)
        # All but their versions.
        return len(new) > 2 and old[0] == new[0] and old[2:] == new[2:]

    def _is_more(self, place: Place) -> bool:
        return place.name not in self._before

    def _put_back(self, places: list[Place]) -> None:
        # From the end of lists, so that indices stay.
        for place in reversed(places):
            before = self._before.get(place.name)
            if before is not None:
                place.owner[place.key] = before.value
            else:
                del place.owner[place.key]


def is_its_own(name: str) -> bool:
    """Whether an attribute is the module's own: none of torch's, of offloading's or of intercepts."""
    return name not in _NOT_ITS_OWN and name not in _INTERCEPTED


def _places(module: nn.Module) -> Iterator[Place]:
    seen = set[int]()
    for part in module.modules():
        # Offloading gives a part its buffers for the time of each call.
        if "_hf_hook" not in vars(part):
            for key, buffer in part._buffers.items():
                yield Place(part._buffers, key, buffer)
        for key, value in list(vars(part).items()):
            if is_its_own(key):
                yield from _within(Place(vars(part), key, value), seen, _LEVELS)


def _within(place: Place, seen: set[int], levels: int) -> Iterator[Place]:
    """The place and those in what lies there, from the outside in."""
    yield place
    parts = _parts_of(place.value)
    if not levels or parts is None or id(parts) in seen:
        return
    seen.add(id(parts))
    in_object = place.in_object or parts is not place.value
    for key, item in list(enumerate(parts) if isinstance(parts, list) else parts.items()):
        yield from _within(Place(parts, key, item, place, in_object), seen, levels - 1)


def _parts_of(value: Any) -> Any:
    """The list or dict of what a container or an object holds; None where nothing can be put back there."""
    if isinstance(value, list | dict):
        return value
    if isinstance(value, PLAIN) or not hasattr(value, "__dict__"):
        return None
    attributes = attributes_of(value)
    return attributes if isinstance(attributes, dict) else None
