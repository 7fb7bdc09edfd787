"""Whole numbers among a call's arguments: a flag (a mode, a layer, a number of frames) or a counter.

A call with another flag is another call, as one with another shape is: what was remembered says nothing of
it. A counter, such as a timestep under an unknown name, has another value in every evaluation. At its first
change nothing tells the two apart, so that evaluation is computed. What changes again in the next one is a
counter, and does not count for the rest of the run.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import NamedTuple

from dcache.cache.history import Branch
from dcache.engine.run_state import RunState
from dcache.identity.loop import TIME_NAMES

# A number's position or name in the call, and its value.
Number = tuple[int | str, int]
_NONE: frozenset[int | str] = frozenset()


class Flagged(NamedTuple):
    """The signature of a call with whole numbers.

    Attributes:
        plain: everything else.
        flags: the numbers that may be flags.
    """

    plain: Hashable
    flags: tuple[Number, ...]


def flagged(
    plain: Hashable, numbers: Sequence[Number], place: int, counters: Collection[int | str] = ()
) -> Hashable:
    """A call's signature with its whole numbers that may be flags.

    Args:
        plain: the signature without them.
        numbers: as `dcache.intercept.pytree.signature` collects them.
        place: position of the timestep argument, which is no flag.
        counters: positions and names of the numbers that are known to count.
    """
    return _with_flags(plain, numbers, {place, *TIME_NAMES, *counters})


def changing(before: Branch, mark: Hashable, index: int) -> frozenset[int | str]:
    """The numbers that were others in every evaluation of a branch, this one included.

    Args:
        before: the branch as it was.
        mark: the signature of the call.
        index: its evaluation.
    """
    if index - before.began > 1:
        return _NONE
    numbers = _changed(before.signature, mark)
    return numbers if before.changing is None else before.changing & numbers


def goes_on(before: Branch, mark: Hashable, state: RunState) -> bool:
    """Whether a call differs from those of its branch in counters alone. These are noted, and taken out.

    Args:
        before: the branch.
        mark: the signature of the call.
        state: the run.
    """
    numbers = _changed(before.signature, mark)
    if before.changing and numbers and numbers <= changing(before, mark, state.last_index):
        state.counters |= numbers
    before.signature = _without(before.signature, state.counters)
    return before.signature == _without(mark, state.counters)


def _changed(before: Hashable, now: Hashable) -> frozenset[int | str]:
    """Positions and names of the numbers in which two signatures differ; empty where they differ in more."""
    if not isinstance(before, Flagged) or not isinstance(now, Flagged) or before.plain != now.plain:
        return _NONE
    if [name for name, _ in before.flags] != [name for name, _ in now.flags]:
        return _NONE
    return frozenset(old[0] for old, new in zip(before.flags, now.flags, strict=True) if old != new)


def _without(mark: Hashable, counters: Collection[int | str]) -> Hashable:
    return _with_flags(mark.plain, mark.flags, counters) if isinstance(mark, Flagged) else mark


def _with_flags(plain: Hashable, numbers: Sequence[Number], excluded: Collection[int | str]) -> Hashable:
    flags = tuple([number for number in numbers if number[0] not in excluded])
    return Flagged(plain, flags) if flags else plain
