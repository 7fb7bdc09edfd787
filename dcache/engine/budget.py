"""`max_cache_bytes`: the most that the histories of one `enable` may hold together.

Every new piece of memory is asked for first (`admits`), so the limit holds at any time. What a branch will
hold once its histories are full is known after its first computed call (`settle`); where all together would
be too much, something is given up, in this order, until it is enough:

1. order: fewer anchors for each site;
2. precision: float32 to bfloat16, then int8 with a scale for each row;
3. granularity: the trunk (a UNet's outermost bracket) in place of its parts, then the whole model.

One `DcacheWarning` says what; where even the last is too much, a `DcacheError` does. What is copied for a
moment while a site is computed (the negated input of `delta`) is no history and is not counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from dcache.cache.history import Branch, History, bytes_of, tensors_of
from dcache.cache.size import bytes_of_like
from dcache.engine.degrade import Rung, coarser, largest_rung, rungs, shrink
from dcache.errors import DcacheError
from dcache.intercept.pytree import copy_containers, gpus, signature
from dcache.util.bytes import read_bytes

if TYPE_CHECKING:
    from dcache.engine.call import Call
    from dcache.engine.session import Session

# A call, the denoiser's own call, and (args, kwargs) as they were before.
First = tuple[Any, Callable[..., Any], Any]


class Budget:
    """The limit, and who shares it.

    Attributes:
        limit: bytes.
        short: whether something could not be remembered since the last `settle`.
    """

    def __init__(self, limit: Any) -> None:
        self.limit = read_bytes(limit)
        self.short = False
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._lowered_for: weakref.WeakKeyDictionary[Session, Hashable] = weakref.WeakKeyDictionary()
        self._counted_in: Call | None = None
        self._used = 0
        self._too_much: tuple[int, str] | None = None
        self._least = 0
        self._began: weakref.WeakKeyDictionary[Session, list[First]] = weakref.WeakKeyDictionary()

    def join(self, session: Session) -> None:
        """Another denoiser shares it."""
        self._sessions.add(session)

    def admits(
        self,
        call: Call,
        history: History,
        opened: Sequence[torch.Tensor | None],
        leaves: Sequence[torch.Tensor | None],
        store: torch.dtype | None,
    ) -> bool:
        """Whether an anchor may be remembered; noted as held if so.

        Args:
            call: the call under way.
            history: where it will be.
            opened: what was taken of each leaf's entry, or None.
            leaves: what is to be stored, None for leaves that are not.
            store: what floating-point leaves are kept in, None for their own dtype.
        """
        firsts = [leaf if taken is None else taken for taken, leaf in zip(opened, leaves, strict=True)]
        history.like = tuple([
            None if leaf is None else (leaf.shape, leaf.dtype if first is None else first.dtype)
            for first, leaf in zip(firsts, leaves, strict=True)
        ])  # fmt: skip
        # An anchor of another size than the one it replaces does not fit into its memory.
        more = bytes_of_like(history, store) - bytes_of(tensors_of(history.spare))
        return more <= 0 or self._take(call, more)

    def admits_probe(self, call: Call, x: torch.Tensor) -> bool:
        """Whether a gauge may keep a tensor like this one; where not, its change is not known."""
        size = x.numel() * x.element_size()
        # After its first call a gauge may keep something of the output too.
        if self._take(call, size if call.branch.settled else 2 * size):
            return True
        call.branch.refused = size
        return False

    def begin(self, session: Session, index: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """A call begins; a run of other shapes than those that were lowered for asks for all again."""
        began = self._began.get(session)
        if began and began[0][0].index != index:
            self.forget(session)
        lowered_for = self._lowered_for.get(session)
        if lowered_for is not None and not session.branches and lowered_for != signature(args, kwargs):
            self._restore(session)

    def forget(self, session: Session) -> None:
        """Let go of the calls that might have been computed once more, and of the one that was counted in."""
        self._began.pop(session, None)
        # A call knows its branch, and that holds its histories.
        self._counted_in = None

    def settle(self, session: Session, call: Call, inner: Callable[..., Any], kept: Any) -> None:
        """After a computed call: give up what is needed to stay below the limit from now on.

        Where what is remembered is no more what the lowered method would have remembered, the first calls of
        this evaluation are computed once more, so that this run is like those that follow it.

        Args:
            session: of the denoiser.
            call: the one that just ended.
            inner: the denoiser's own call.
            kept: (args, kwargs) as they were before the call, None where the branch was called before.

        Raises:
            DcacheError: there is nothing left to give up.
        """
        if call.branch.settled and not self.short:
            return
        firsts = [] if call.branch.settled or kept is None else self._firsts(session, call, inner, kept)
        repeated = False
        if self.short or sum(self._full(s, Rung()) for s in self._live()) > self.limit:
            self._rest_of(session)
        while self._lower(session, repeated) and firsts:
            repeated = True
            for first, _, _ in firsts:
                session.branches.pop(first.branch.name, None)
                first.branch.start_afresh(first.branch.reset)
            session.record.recount(firsts[0][0].counts)
            for first, call_it, its in firsts:
                repeat(session, first, call_it, its)
        for branch in session.branches.values():
            branch.settled = True

    def _lower(self, session: Session, repeated: bool) -> bool:
        """Give up what is needed; True where what is remembered is not what it would be then."""
        short, self.short, self._counted_in = self.short, False, None
        # Where nothing is held there is nothing to give up.
        sessions = [s for s in self._live() if s.branches]
        marks = {s: next(b.signature for b in s.branches.values()) for s in sessions}
        for rung in rungs(sessions):
            total = sum(self._full(s, rung) for s in sessions)
            # What could not be remembered under the same method before does not fit, whatever its sum.
            if total <= self.limit and not (short and repeated and rung == Rung()):
                for s in sessions:
                    if shrink(s, rung):
                        self._lowered_for.setdefault(s, marks[s])
                self._tell(session, total)
                return short or rung.precision > 0
            self._too_much = self._too_much or (total, session.method.describe())
        least = sum(self._full(s, largest_rung(sessions)) for s in sessions)
        self._least = min(least, self._least or least)
        coarsened = [s for s in sessions if coarser(s)]
        for s in coarsened:
            self._lowered_for.setdefault(s, marks[s])
        if not coarsened:
            least, self._least, self._too_much = self._least, 0, None
            for s in self._live():
                self._restore(s)
            raise DcacheError(
                f"max_cache_bytes={self.limit:,} is too little for {session.asked.describe()}: with all that "
                f"can be given up, about {least:,} bytes are needed. Allow them, or choose sites='trunk' or "
                "'model'"
            )
        return True

    def _restore(self, session: Session) -> None:
        """The method as it was asked for; nothing is remembered then."""
        self._lowered_for.pop(session, None)
        session.free()
        if session.method is not session.asked:
            session.method, session.predictor = session.asked, session.asked.predictor
            session.rebind(session.method.sites)

    def _firsts(self, session: Session, *first: Any) -> list[First]:
        """The first calls of branches in this evaluation, with this one."""
        self._began[session] = [*self._began.get(session, []), first]
        return self._began[session]

    def _full(self, session: Session, rung: Rung) -> int:
        """Bytes of a session's histories once they are full, and of its gauges."""
        total = 0
        anchors, store = rung.of(session)
        guidance = session.binding.guidance
        for branch in session.branches.values():
            for key, history in branch.histories.items():
                if guidance is not None and key == guidance.key:
                    total += bytes_of_like(history, None)
                else:
                    total += anchors * bytes_of_like(history, store)
            if branch.gauge is not None:
                sizes = [t.untyped_storage().nbytes() for t in branch.gauge.full()]
                # What it sees now stands beside what it compares with.
                total += max(sum(sizes) + max(sizes, default=0), branch.gauge.most * branch.refused)
        return total

    def _take(self, call: Call, size: int) -> bool:
        """Whether there is room for so many bytes more; noted as held if so."""
        if self._counted_in is not call:
            self._counted_in, self._used = call, sum(session.bytes_now() for session in self._live())
        if self._used + size > self.limit:
            self.short = True
            return False
        self._used += size
        return True

    def _rest_of(self, session: Session) -> None:
        """Free what denoisers remember whose turn in the run is over (the first of Wan 2.2's two)."""
        run = session.run
        for other in self._live():
            if other is not session and run is not None and other.run is run and other.last < run.index:
                other.free()

    def _tell(self, session: Session, total: int) -> None:
        if self._too_much is None:
            return
        (before, method), self._too_much, self._least = self._too_much, None, 0
        session.warn(
            f"max_cache_bytes={self.limit:,}: {method} would hold {before:,} bytes; it is lowered to "
            f"{session.method.describe()}, which holds {total:,}"
        )

    def _live(self) -> list[Session]:
        return [session for session in self._sessions if not session.gone]


def repeat(session: Session, call: Call, inner: Callable[..., Any], kept: Any) -> None:
    """Compute a branch's first call once more, to remember it; what it returns is known already.

    Args:
        session: lowered since the call.
        call: the call as it was.
        inner: the denoiser's own call.
        kept: (args, kwargs) as they were before the call.
    """
    old = call.branch
    branch = Branch(old.name, session.predictor.order + 1, old.signature, condition=old.condition)
    branch.paired, branch.reset = old.paired, old.reset
    session.branches[branch.name] = branch
    observing = old.signature not in session.checked
    session.call = repeated = type(call)(branch, call.index, call.tau, observing)
    args, kwargs = copy_containers(kept[0]), copy_containers(kept[1])
    session.gauge(repeated, args, kwargs)
    if observing:
        session.binding.observe()
    with torch.random.fork_rng(gpus(*kept)):
        whole = session.binding.whole
        output = inner(*args, **kwargs) if whole is None else whole.run(repeated, inner, args, kwargs)[0]
    session.check(repeated, output, inner, kept)
