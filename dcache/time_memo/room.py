"""The bytes that the tables of one denoiser may hold: those of its timed weights, within a common limit."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dcache.intercept.limits import ByteLimit
from dcache.intercept.module_call import limit_of
from dcache.time_memo.keys import Moment
from dcache.time_memo.timed import TimedIntercept


class Room:
    """Room for the tables of one denoiser.

    Args:
        module: the denoiser.

    Attributes:
        timed: the timed modules, whose tables they are.
        limit: bytes of the weights that the tables stand for.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.timed: Sequence[TimedIntercept] = ()
        self.limit = 0
        self._common: ByteLimit | None = None
        self._made_in: Moment | None = None

    def open(self, timed: Sequence[TimedIntercept]) -> None:
        """Begin with these timed modules."""
        self.timed = timed
        self.limit = sum(part.weights.nbytes for part in timed)

    def refer(self) -> None:
        """Before a call: tables count towards `max_cache_bytes` of what is enabled on the denoiser now."""
        self._common = limit_of(self.module)
        if self._common is not None:
            self._common.admit(self)

    def bytes_now(self) -> int:
        """Bytes of all tables now."""
        return sum(part.table.nbytes for part in self.timed)

    def fits(self, nbytes: int, moment: Moment | None) -> bool:
        """Whether so many bytes more may be kept; old conditions make way, once in a call.

        Args:
            nbytes: bytes of an entry.
            moment: the denoiser's call under way.
        """
        if self._spare(nbytes):
            return True
        if self._made_in is moment:
            return False
        self._made_in = moment
        self._forget_old()
        return self._spare(nbytes)

    def make_way(self, nbytes: int) -> int:
        """Throw away at least so many bytes, old conditions first, or everything; returns what was freed."""
        before = self.bytes_now()
        self._forget_old()
        freed = before - self.bytes_now()
        for part in self.timed:
            freed += part.table.shrink(nbytes - freed)
        return freed

    def full_bytes(self, times: int) -> int:
        """Bytes of the tables once they have entries for so many timesteps.

        Args:
            times: different timesteps of a run.

        Returns:
            For all conditions and shapes that there were; where there was but one call, for its own.
        """
        return min(self.limit, sum(part.full_bytes(times) for part in self.timed))

    def _spare(self, nbytes: int) -> bool:
        """Whether so many bytes more are within both limits; reserved if so."""
        within = self.bytes_now() + nbytes <= self.limit
        return within and (self._common is None or self._common.spare(nbytes))

    def _forget_old(self) -> None:
        """Throw away what belongs to old conditions, or was not looked up lately."""
        tables = [part.table for part in self.timed]
        numbers = sorted(set[int]().union(*(table.numbers for table in tables)))
        # All conditions but the newest, which are those of the picture under way.
        old = set(numbers[: len(numbers) // 2])
        for table in tables:
            table.forget(old)
            table.forget_unused()
