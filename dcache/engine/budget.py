"""`max_cache_bytes`: a limit of the bytes of all histories of one `enable`.

Every anchor is checked against the limit before it is stored (`take`), so the limit holds at any time. After
the first computed call of a branch its size with full histories is known (`settle`). If all denoisers
together would exceed the limit, the method is degraded in this order until it fits:

1. order: fewer anchors for each site;
2. precision: float32 to bfloat16, then int8 with a scale for each row;
3. granularity: the trunk (a UNet's outermost bracket) in place of its parts, then the whole model.

One `DcacheWarning` says what was changed. If even the last step does not fit, a `DcacheError` is raised. The
temporary copy of a site's input under `delta` is not part of a history and is not counted.

Processes that share the tokens of one denoiser (context parallelism) may have parts of different sizes. What
does not fit in one of them is stored in none, so that all of them predict the same calls.

Tables of `dcache.memo` count too. They get what full histories leave, and make way where histories need more.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Protocol

from dcache.engine.degrade import DegradeLevel, levels_to, lowest_level
from dcache.errors import DcacheError
from dcache.identity.run import Run
from dcache.util.bytes import read_bytes

if TYPE_CHECKING:
    from dcache.intercept.limits import Tables


class Budgeted(Protocol):
    """The histories of one denoiser, as a budget uses them."""

    @property
    def removed(self) -> bool:
        """True if caching was disabled on the denoiser."""
        ...

    @property
    def holds(self) -> bool:
        """True if there is any anchor now."""
        ...

    @property
    def run(self) -> Run | None:
        """The run under way."""
        ...

    @property
    def lowest(self) -> DegradeLevel:
        """The lowest level of the method at its present sites."""
        ...

    def describe(self, requested: bool = False) -> str:
        """Description of the present method, or of the one that the user requested."""
        ...

    def bytes_now(self) -> int:
        """Bytes of the histories now."""
        ...

    def full_bytes(self, level: DegradeLevel) -> int:
        """Bytes of the histories at a level once all are full."""
        ...

    def degrade(self, level: DegradeLevel) -> None:
        """Lower the method to a level, and convert the existing anchors."""
        ...

    def coarsen(self) -> bool:
        """Use fewer, coarser sites at the requested order and precision; False if there are none."""
        ...

    def restore(self) -> None:
        """Return to the requested method with empty histories."""
        ...

    def repeat_first_calls(self) -> bool:
        """Compute this evaluation's first calls again to fill the histories; False if there are none."""
        ...

    def fits(self, fitting: bool) -> bool:
        """Whether something fits in all processes that have parts of the denoiser's tokens.

        Args:
            fitting: whether it fits in this one.
        """
        ...

    def free_if_idle(self, run: Run) -> None:
        """Free the histories if the denoiser is not called again in this run."""
        ...

    def warn(self, text: str) -> None:
        """Warn once per denoiser and text."""
        ...


class Budget:
    """A limit of bytes, shared by the denoisers of one `enable`.

    Args:
        limit: bytes, or text such as "512MB".

    Attributes:
        limit: bytes.
        short: True if an anchor was refused since the last `settle`.
    """

    def __init__(self, limit: Any) -> None:
        self.limit = read_bytes(limit)
        self.short = False
        self._sharers: weakref.WeakSet[Budgeted] = weakref.WeakSet()
        self._tables: weakref.WeakSet[Tables] = weakref.WeakSet()
        # Bytes of all histories once they are full, as of the last `settle`; they are free for them.
        self._settled = 0
        # The bytes in use are summed up once in each call of a denoiser; `take` then adds to the sum.
        self._counted_in: object = None
        self._used = 0
        # Bytes and description of the method before it was degraded, for the warning.
        self._too_much: tuple[int, str] | None = None
        # Fewest bytes that any level needs, for the error.
        self._least = 0

    def join(self, sharer: Budgeted) -> None:
        """Add a denoiser that shares the limit."""
        self._sharers.add(sharer)

    def admit(self, tables: Tables) -> None:
        """Count these tables from now on, which fill what the histories leave."""
        if tables not in self._tables:
            self._tables.add(tables)
            self._counted_in = None

    def spare(self, nbytes: int) -> bool:
        """Reserve bytes for an entry of a table; False if full histories would not fit beside it."""
        histories = max(self._settled, sum(sharer.bytes_now() for sharer in self._active()))
        if histories + self._bytes_of_tables() + nbytes > self.limit:
            return False
        self._used += nbytes
        return True

    def take(self, call: object, size: int) -> bool:
        """Reserve bytes for an anchor; False if they would exceed the limit.

        Args:
            call: the denoiser's call in which the anchor is stored.
            size: bytes.
        """
        if self._counted_in is not call:
            histories = sum(sharer.bytes_now() for sharer in self._active())
            self._counted_in, self._used = call, histories + self._bytes_of_tables()
        if self._used + size > self.limit:
            self._used -= self._make_way(self._used + size - self.limit)
        if self._used + size > self.limit:
            self.short = True
            return False
        self._used += size
        return True

    def give_back(self, size: int) -> None:
        """Undo a `take`: the anchor is not stored."""
        self._used -= size
        self.short = True

    def forget_call(self) -> None:
        """Drop the reference to the last call, which keeps histories alive through its branch."""
        self._counted_in = None

    def settle(self, sharer: Budgeted) -> None:
        """Degrade the methods after a denoiser's computed call, so that full histories fit the limit.

        If the stored anchors differ from those that the degraded method would have stored, the first calls of
        this evaluation are computed again. So this run gives the same result as the runs after it.

        Raises:
            DcacheError: the lowest level of the coarsest sites exceeds the limit.
        """
        run = sharer.run
        short = self.short or not sharer.fits(self._total(self._active(), DegradeLevel()) <= self.limit)
        if run is not None and short:
            # Free denoisers that are not called again in this run, such as the first of Wan 2.2's two.
            for other in self._active():
                if other is not sharer:
                    other.free_if_idle(run)
        repeated = False
        while self._lower(sharer, repeated) and sharer.repeat_first_calls():
            repeated = True

    def _lower(self, sharer: Budgeted, repeated: bool) -> bool:
        """Degrade all denoisers to the first level that fits; True if the first calls must be repeated.

        Args:
            sharer: the denoiser whose call has ended.
            repeated: whether the first calls were repeated already.
        """
        short, self.short, self._counted_in = self.short, False, None
        holders = [other for other in self._active() if other.holds]
        lowest = lowest_level(holder.lowest for holder in holders)
        for level in levels_to(lowest):
            total = self._total(holders, level)
            # If the present method was repeated and an anchor was refused again, the method does not fit,
            # even if the sum of its full histories does.
            fits = sharer.fits(total <= self.limit)
            if fits and not (short and repeated and level == DegradeLevel()):
                for holder in holders:
                    holder.degrade(level)
                self._settled = total
                self._make_way(total + self._bytes_of_tables() - self.limit)
                self._warn_degraded(sharer, total)
                return short or level.precision > 0
            self._too_much = self._too_much or (total, sharer.describe())
        least = self._total(holders, lowest)
        self._least = min(least, self._least or least)
        # No level fits. Coarsen all denoisers: one on coarse sites beside one on fine sites saves little. The
        # list is built first, since `any` would stop at the first.
        coarsened = [holder.coarsen() for holder in holders]
        if not any(coarsened):
            least, self._least, self._too_much = self._least, 0, None
            for other in self._active():
                other.restore()
            raise DcacheError(
                f"max_cache_bytes={self.limit:,} is too little for {sharer.describe(requested=True)}: at the "
                f"lowest order, precision and granularity it needs about {least:,} bytes. Allow them, or "
                "choose sites='trunk' or 'model'"
            )
        return True

    def _bytes_of_tables(self) -> int:
        return sum(tables.bytes_now() for tables in self._tables)

    def _make_way(self, nbytes: int) -> int:
        """Let tables make way for so many bytes of histories; returns the bytes that were freed."""
        freed = 0
        for tables in self._tables:
            if freed < nbytes:
                freed += tables.make_way(nbytes - freed)
        return freed

    @staticmethod
    def _total(sharers: list[Budgeted], level: DegradeLevel) -> int:
        return sum(sharer.full_bytes(level) for sharer in sharers)

    def _warn_degraded(self, sharer: Budgeted, total: int) -> None:
        if self._too_much is None:
            return
        (before, method), self._too_much, self._least = self._too_much, None, 0
        sharer.warn(
            f"max_cache_bytes={self.limit:,}: {method} would need {before:,} bytes; it is lowered to "
            f"{sharer.describe()}, which needs {total:,}"
        )

    def _active(self) -> list[Budgeted]:
        return [sharer for sharer in self._sharers if not sharer.removed]
