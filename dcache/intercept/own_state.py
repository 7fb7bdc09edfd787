"""What a call of a module writes into the module itself: keys and values, attention maps, running buffers.

Predicted calls do not run the parts that write. Parameters and plain values do not count, nor does what is
written once and for all, such as a table that the first call makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dcache.intercept.effects import state_of
from dcache.intercept.objects import PLAIN, attributes_of
from dcache.util.modules import modules_of

# Attributes that torch, wrappers and offloading put on every module, and those of intercepts, which hold the
# engine; buffers are looked at apart.
NOT_ITS_OWN = frozenset(vars(nn.Module())) | {
    "_hf_hook",
    "_diffusers_hook",
    "_old_forward",
    "forward",
    "_compiled_call_impl",
    "compile",
    "cache_context",
}
# Bytes of the largest buffer whose content is looked at: quantised weights are buffers too.
_MOST_BYTES = 2**20
# Objects within a module, such as attention processors and their stores, are looked into this deep.
_LEVELS = 4
_ABSENT = object()


@dataclass(frozen=True)
class Table:
    """A dict (of attributes, of buffers, or any other) or a list, and what it held.

    Attributes:
        owner: the dict or list.
        contents: key or index -> value.
        place: where the owner itself lies; None where it is a module's own dict.
        in_object: whether that is in an object that is no module.
    """

    owner: Any
    contents: dict[Any, Any]
    place: Place | None = None
    in_object: bool = False


@dataclass(frozen=True)
class Place:
    """Where a module holds tensors: a table's key, and what lies there."""

    table: Table
    key: Any
    value: Any


class OwnState:
    """The tensors that a module and its parts hold in buffers, attributes, containers and objects.

    Args:
        module: the module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        # They keep their owners and the tensors, whose identities are therefore not used again.
        self._tables = {id(table.owner): table for table in _tables(module)}
        values = (value for table in self._tables.values() for value in table.contents.values())
        self._states = {
            id(tensor): state_of(tensor, _MOST_BYTES) for value in values for tensor in _tensors_of(value)
        }

    def written(self) -> list[Place]:
        """Places that hold other contents than before: new tensors, or some that were written into."""
        return [place for place in self._changed() if not self._is_equal(place)]

    def adds(self, call: Callable[[], Any]) -> bool:
        """Whether what the module holds depends on every call before: whether a further call adds to it.

        It does where it writes into tensors, holds more of them, or fills an object, such as an attention
        processor that stores maps for others to read. It does not where it sets attributes anew, or where
        only the first call wrote, to prepare something.

        Args:
            call: makes the call, which is undone.
        """
        if any(self._is_written_into(place) for place in self.written()):
            # It could not be undone.
            return True
        again = OwnState(self.module)
        try:
            call()
        except Exception:
            # Such as keys of the first call that those of the second do not go with.
            return True
        finally:
            # The same call makes equal tensors.
            written = again._changed()
            again._put_back(written)
        return any(
            place.table.in_object or again._is_written_into(place) or again._before(place) is _ABSENT
            for place in written
        )

    def _changed(self) -> list[Place]:
        """Places that hold tensors which were not there before, or which were written into."""
        places: dict[tuple[int, Any], Place] = {}
        for table in _tables(self.module):
            for key, value in table.contents.items():
                tensors = _tensors_of(value)
                if any(self._states.get(id(tensor)) != state_of(tensor, _MOST_BYTES) for tensor in tensors):
                    outer = Place(table, key, value)
                    # In a container that is new, which is taken out as a whole.
                    while id(outer.table.owner) not in self._tables and outer.table.place is not None:
                        outer = outer.table.place
                    places[id(outer.table.owner), outer.key] = outer
        return list(places.values())

    def _before(self, place: Place) -> Any:
        """What lay in a place, `_ABSENT` where nothing did."""
        table = self._tables.get(id(place.table.owner))
        return _ABSENT if table is None else table.contents.get(place.key, _ABSENT)

    def _is_written_into(self, place: Place) -> bool:
        return self._before(place) is place.value and bool(_tensors_of(place.value))

    def _is_equal(self, place: Place) -> bool:
        """Whether a tensor was replaced by one of the same content (a table that is made anew)."""
        first, second = self._before(place), place.value
        if not isinstance(first, torch.Tensor) or not isinstance(second, torch.Tensor) or first is second:
            return False
        if (first.dtype, first.device) != (second.dtype, second.device):
            return False
        old, new = self._states[id(first)], state_of(second, _MOST_BYTES)
        # All but their versions.
        return len(new) > 2 and old[0] == new[0] and old[2:] == new[2:]

    def _put_back(self, places: list[Place]) -> None:
        for place in places:
            owner, before = place.table.owner, self._before(place)
            if isinstance(owner, list):
                owner[:] = self._tables[id(owner)].contents.values()
            elif before is _ABSENT:
                del owner[place.key]
            else:
                owner[place.key] = before


def own_attributes(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module that are its own: none of torch's, of offloading's or of intercepts."""
    return {name: value for name, value in vars(module).items() if name not in NOT_ITS_OWN}


def _tables(module: nn.Module) -> Iterator[Table]:
    seen = set[int]()
    for part in modules_of(module):
        # Offloading gives a part its buffers for the time of each call.
        if part._buffers and "_hf_hook" not in vars(part):
            yield Table(part._buffers, dict(part._buffers))
        yield from _within(Table(vars(part), own_attributes(part)), seen, _LEVELS)


def _within(table: Table, seen: set[int], levels: int) -> Iterator[Table]:
    """The table and those in what lies there, from the outside in."""
    yield table
    if not levels:
        return
    for key, value in table.contents.items():
        parts = None if isinstance(value, PLAIN) else _parts_of(value)
        if parts is None or id(parts) in seen:
            continue
        seen.add(id(parts))
        contents = dict(enumerate(parts)) if isinstance(parts, list) else dict(parts)
        in_object = table.in_object or parts is not value
        yield from _within(Table(parts, contents, Place(table, key, value), in_object), seen, levels - 1)


def _parts_of(value: Any) -> Any:
    """The list or dict of what a container or an object holds; None where nothing can be put back there."""
    if isinstance(value, list | dict):
        return value
    if not hasattr(value, "__dict__"):
        return None
    attributes = attributes_of(value)
    return attributes if isinstance(attributes, dict) else None


def _tensors_of(value: Any) -> list[torch.Tensor]:
    """The tensors that are a value, or the items of a tuple; not those deeper in."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [item for item in value if isinstance(item, torch.Tensor)] if isinstance(value, tuple) else []
