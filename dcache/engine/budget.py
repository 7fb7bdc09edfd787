"""`max_cache_bytes`: the most that the histories of one `enable` may hold together.

Every new piece of memory is asked for first (`take`), so the limit holds at any time. What a branch will hold
once its histories are full is known after its first computed call (`settle`). Where all together would be too
much, something is given up, in this order, until it is enough:

1. order: fewer anchors for each site;
2. precision: float32 to bfloat16, then int8 with a scale for each row;
3. granularity: the trunk (a UNet's outermost bracket) in place of its parts, then the whole model.

One `DcacheWarning` says what; where even the last is too much, a `DcacheError` does. What is copied for a
moment while a site is computed (the negated input of `delta`) is no history and is not counted.
"""

from __future__ import annotations

import weakref
from typing import Any, Protocol

from dcache.engine.degrade import DegradeLevel, levels_to, lowest_level
from dcache.errors import DcacheError
from dcache.identity.run import Run
from dcache.util.bytes import read_bytes


class Budgeted(Protocol):
    """One denoiser's share in a budget."""

    @property
    def removed(self) -> bool:
        """Whether caching was taken off the denoiser."""
        ...

    @property
    def holds(self) -> bool:
        """Whether anything is remembered now."""
        ...

    @property
    def run(self) -> Run | None:
        """The run under way."""
        ...

    @property
    def lowest(self) -> DegradeLevel:
        """How far it can go down."""
        ...

    def describe(self, requested: bool = False) -> str:
        """The method as it is now, or as it was asked for."""
        ...

    def bytes_now(self) -> int:
        """Bytes held now."""
        ...

    def full_bytes(self, level: DegradeLevel) -> int:
        """Bytes once every history is full, at that level."""
        ...

    def degrade(self, level: DegradeLevel) -> None:
        """Go down to a level: the method changes, and with it what is remembered already."""
        ...

    def coarsen(self) -> bool:
        """Remember fewer, coarser sites at the order and precision asked for; False where that cannot be."""
        ...

    def restore(self) -> None:
        """Go back to the method that was asked for; nothing is remembered then."""
        ...

    def repeat_first_calls(self) -> bool:
        """Compute this evaluation's first calls again, to remember them; False where there are none."""
        ...

    def free_if_idle(self, run: Run) -> None:
        """Free everything if the denoiser's turn in that run is over."""
        ...

    def warn(self, text: str) -> None:
        """Warn once per denoiser and text."""
        ...


class Budget:
    """The limit, and who shares it.

    Args:
        limit: bytes, or text such as "512MB".

    Attributes:
        limit: bytes.
        short: whether something could not be remembered since the last `settle`.
    """

    def __init__(self, limit: Any) -> None:
        self.limit = read_bytes(limit)
        self.short = False
        self._sharers: weakref.WeakSet[Budgeted] = weakref.WeakSet()
        # The bytes in use are added up once a call of a denoiser, and counted on from there.
        self._counted_in: object = None
        self._used = 0
        # What the method would hold, and its description, for the warning; and the least that was possible.
        self._too_much: tuple[int, str] | None = None
        self._least = 0

    def join(self, sharer: Budgeted) -> None:
        """Another denoiser shares the limit."""
        self._sharers.add(sharer)

    def take(self, call: object, size: int) -> bool:
        """Whether there is room for so many bytes more; noted as held if so.

        Args:
            call: the call of a denoiser in which they are asked for.
            size: bytes.
        """
        if self._counted_in is not call:
            self._counted_in, self._used = call, sum(sharer.bytes_now() for sharer in self._live())
        if self._used + size > self.limit:
            self.short = True
            return False
        self._used += size
        return True

    def forget_call(self) -> None:
        """Drop the last call: it holds its branch, and that holds histories."""
        self._counted_in = None

    def settle(self, sharer: Budgeted) -> None:
        """After a denoiser's computed call: give up what is needed to stay below the limit from now on.

        Where what is remembered is no more what the lowered method would have remembered, the first calls of
        this evaluation are computed once more, so that this run is like those that follow it.

        Raises:
            DcacheError: there is nothing left to give up.
        """
        run = sharer.run
        if run is not None and (self.short or self._total(self._live(), DegradeLevel()) > self.limit):
            # Some denoisers' turns in the run are over (the first of Wan 2.2's two).
            for other in self._live():
                if other is not sharer:
                    other.free_if_idle(run)
        repeated = False
        while self._lower(sharer, repeated) and sharer.repeat_first_calls():
            repeated = True

    def _lower(self, sharer: Budgeted, repeated: bool) -> bool:
        """Give up what is needed; True where what is remembered is not what it would be then."""
        short, self.short, self._counted_in = self.short, False, None
        # Where nothing is held there is nothing to give up.
        holders = [other for other in self._live() if other.holds]
        lowest = lowest_level(holder.lowest for holder in holders)
        for level in levels_to(lowest):
            total = self._total(holders, level)
            # What could not be remembered under the same method before does not fit, whatever its sum.
            if total <= self.limit and not (short and repeated and level == DegradeLevel()):
                for holder in holders:
                    holder.degrade(level)
                self._tell(sharer, total)
                return short or level.precision > 0
            self._too_much = self._too_much or (total, sharer.describe())
        least = self._total(holders, lowest)
        self._least = min(least, self._least or least)
        # All of them: one denoiser on coarse sites beside one on fine ones helps little.
        coarsened = [holder.coarsen() for holder in holders]
        if not any(coarsened):
            least, self._least, self._too_much = self._least, 0, None
            for other in self._live():
                other.restore()
            raise DcacheError(
                f"max_cache_bytes={self.limit:,} is too little for {sharer.describe(requested=True)}: with "
                f"all that can be given up, about {least:,} bytes are needed. Allow them, or choose "
                "sites='trunk' or 'model'"
            )
        return True

    @staticmethod
    def _total(sharers: list[Budgeted], level: DegradeLevel) -> int:
        return sum(sharer.full_bytes(level) for sharer in sharers)

    def _tell(self, sharer: Budgeted, total: int) -> None:
        if self._too_much is None:
            return
        (before, method), self._too_much, self._least = self._too_much, None, 0
        sharer.warn(
            f"max_cache_bytes={self.limit:,}: {method} would hold {before:,} bytes; it is lowered to "
            f"{sharer.describe()}, which holds {total:,}"
        )

    def _live(self) -> list[Budgeted]:
        return [sharer for sharer in self._sharers if not sharer.removed]
