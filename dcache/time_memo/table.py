"""The outputs of one timed module: an entry for each key, checked once, never changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.utils._pytree import tree_map_only

from dcache.time_memo.arguments import tensors_in
from dcache.time_memo.clock import bits_of
from dcache.time_memo.keys import numbers_in, version_of
from dcache.util.bytes import bytes_of_elements


@dataclass
class Entry:
    """An output as it was computed.

    Attributes:
        output: a tensor, or a container of tensors.
        tensors: the tensors in it.
        versions: the tensors' versions when it was stored.
        numbers: numbers of the tensors that its key names.
        checked: whether it was computed a second time and came out the same.
        used: when it was last looked up, in look-ups of its table.
    """

    output: Any
    tensors: Sequence[torch.Tensor]
    versions: tuple[int, ...]
    numbers: frozenset[int]
    checked: bool = False
    used: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return bytes_of_elements(self.tensors)

    @property
    def written(self) -> bool:
        """Whether the model has written into it since."""
        # Without a call for each tensor: this runs for every timed module in every step.
        for tensor, version in zip(self.tensors, self.versions, strict=True):
            if version != (0 if tensor.is_inference() else tensor._version):
                return True
        return False


class Table:
    """Key -> entry.

    Attributes:
        entries: the entries, the oldest first.
        nbytes: bytes of all entries.
        copies: whether outputs are copied, because the model writes into what it gets.
    """

    def __init__(self) -> None:
        self.entries: dict[Hashable, Entry] = {}
        self.nbytes = 0
        self.copies = False
        self._lookups = 0

    @property
    def numbers(self) -> set[int]:
        """The numbers of tensors that keys of entries name."""
        return set[int]().union(*(entry.numbers for entry in list(self.entries.values())))

    def find(self, key: Hashable) -> Entry | None:
        """The entry of a key, None where there is none or the model has written into it."""
        entry = self.entries.get(key)
        self._lookups += 1
        if entry is not None:
            entry.used = self._lookups
        if entry is not None and entry.written:
            # Its content is lost. From now on the model gets copies.
            self.copies = True
            self._delete(key)
            return None
        return entry

    def output(self, entry: Entry) -> Any:
        """What the model is given for an entry."""
        return _copied(entry.output) if self.copies else entry.output

    def store(self, key: Hashable, output: Any, checked: bool = False) -> Any:
        """Keep an output, and return what the model is given."""
        self.copies = self.copies or any(tensor.is_inference() for tensor in tensors_in(output))
        kept = _copied(output) if self.copies else output
        self._delete(key)
        tensors, numbers = tensors_in(kept), frozenset(numbers_in(key))
        versions = tuple(version_of(tensor) for tensor in tensors)
        self.entries[key] = entry = Entry(kept, tensors, versions, numbers, checked, self._lookups)
        self.nbytes += entry.nbytes
        return output

    def forget(self, numbers: Collection[int]) -> None:
        """Throw away what was kept for tensors that are gone."""
        # `list`: another thread may be storing.
        for key, entry in list(self.entries.items()):
            if not entry.numbers.isdisjoint(numbers):
                self._delete(key)

    def forget_unused(self) -> None:
        """Throw away what was not looked up lately: a loop over all entries would have come to it twice."""
        for key, entry in list(self.entries.items()):
            if self._lookups - entry.used > 2 * len(self.entries):
                self._delete(key)

    def shrink(self, nbytes: int) -> int:
        """Throw away the oldest entries, at least so many bytes or all; returns the bytes that were freed."""
        before = self.nbytes
        for key in list(self.entries):
            if before - self.nbytes >= nbytes:
                break
            self._delete(key)
        return before - self.nbytes

    def full_bytes(self, times: int) -> int:
        """Bytes once each pair of conditions and shapes has an entry for each of so many timesteps."""
        groups: dict[Hashable, tuple[int, int]] = {}
        for key, entry in list(self.entries.items()):
            moment, shapes = cast("tuple[tuple[Hashable, ...], Hashable]", key)
            timed = moment[1] is not None
            groups[moment[0], timed, moment[2:], shapes] = (entry.nbytes, times if timed else 1)
        return sum(nbytes * count for nbytes, count in groups.values())

    def clear(self) -> None:
        """Throw everything away."""
        self.entries, self.nbytes = {}, 0

    def _delete(self, key: Hashable) -> None:
        entry = self.entries.pop(key, None)
        self.nbytes -= 0 if entry is None else entry.nbytes


def equal(first: Any, second: Any) -> bool:
    """Whether two outputs have the same structure and the same bits."""
    ours, theirs = tensors_in(first), tensors_in(second)
    return len(ours) == len(theirs) and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits_of(a), bits_of(b))
        for a, b in zip(ours, theirs, strict=True)
    )


def _copied(output: Any) -> Any:
    clone: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.clone
    return tree_map_only(torch.Tensor, clone, output)
