"""What dcache watches of a pipeline: begin and end of its call, denoisers that are swapped between runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from dcache.identity.guider import GuiderTap, guider_taps
from dcache.identity.sampler import is_sampler, tap, tap_of
from dcache.intercept.conflicts import refuse_compiled, refuse_other_cache
from dcache.intercept.method import MethodTap

if TYPE_CHECKING:
    from dcache.engine.session import Session
    from dcache.identity.detect import Scout

_BEGIN = "progress_bar"
_END = "maybe_free_model_hooks"
# Modular pipelines have neither; components are swapped by this.
_SWAP = "register_components"


class PipeWatch:
    """Belongs to one pipeline; lives in its attributes: taps of the methods that begin and end its call."""

    def __init__(self, pipe: Any, sessions: list[Session]) -> None:
        self.pipe = pipe
        self.sessions = sessions
        self.scout: Scout | None = None
        self.renew: Callable[[], None] = lambda: None
        self.guiders: list[GuiderTap] = guider_taps(pipe, [])
        around = {_BEGIN: self._begin, _END: self._end, _SWAP: self._swap}
        present = {name: f for name, f in around.items() if callable(getattr(pipe, name, None))}
        self.taps = [MethodTap(pipe, name, f) for name, f in present.items()]
        for method_tap in self.taps:
            method_tap.install()

    def remove(self) -> None:
        """Take the watch off."""
        if self.scout is not None:
            self.scout.remove()
        for method_tap in self.taps:
            method_tap.remove()
        for guider in self.guiders:
            guider.remove()

    def live(self) -> list[Session]:
        """The denoisers' sessions as they are now: another pipe may have enabled something else on them."""
        from dcache.engine.session import session_of

        found = [session_of(session.module) for session in self.sessions]
        return [session for session in found if session is not None]

    def connect(self, session: Session) -> None:
        """Let the session know the pipeline and its sampler."""
        session.pipes.append(weakref.ref(self.pipe))
        sampler = getattr(self.pipe, "scheduler", None)
        if is_sampler(sampler):
            session.identity.taps.append(tap(sampler, session))

    def join(self, session: Session) -> None:
        """Get to know a session that another pipe has put on the denoiser they share."""
        if any(ref() is self.pipe for ref in session.pipes):
            return
        self.connect(session)
        found = tap_of(getattr(self.pipe, "scheduler", None))
        if found is not None and found.run is None:
            found.open_from(found.sampler)

    def follow(self, session: Session) -> None:
        """Move a session if its denoiser was replaced in the pipeline; histories start afresh.

        Raises:
            DcacheError: the new denoiser is compiled as a whole, has another cache, or lacks the sites.
        """
        from dcache.engine.session import session_of

        self.guiders = guider_taps(self.pipe, self.guiders)
        module = getattr(self.pipe, session.component, None) if session.component else session.module
        if module is session.module or not isinstance(module, nn.Module):
            return
        refuse_compiled(module)
        new = session_of(module)
        if new is None:
            refuse_other_cache(module)
            new = self._again(session, module)
        self.sessions = [new if s is session else s for s in self.sessions]
        self.connect(new)
        session.pipes = [ref for ref in session.pipes if ref() is not self.pipe]
        if not session.pipes:
            session.remove()

    def _again(self, session: Session, module: nn.Module) -> Session:
        ours = {intercept.module for intercept in session.binding.intercepts}
        if ours.isdisjoint(module.modules()) or any(ref() is not self.pipe for ref in session.pipes):
            return session.again(module)
        # The denoiser was wrapped or unwrapped (peft): the blocks are the same and change hands.
        session.binding.remove()
        try:
            return session.again(module)
        except BaseException:
            session.binding.install()
            raise

    def _begin(self, original: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        # A run whose sampler was replaced as well as its denoiser has told nobody that it began.
        if owner is self.pipe:
            for session in self.live():
                self.join(session)
                self.follow(session)
        return original(*args, **kwargs)

    def _swap(self, original: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if owner is self.pipe:
            for session in self.live():
                self.follow(session)
        return result

    def _end(self, original: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        if owner is self.pipe:
            for session in self.live():
                session.end_run()
                for found in session.identity.taps:
                    found.close()
            if self.scout is not None:
                self.scout.end()
                if self.scout.found:
                    self.scout = None
                else:
                    self.scout.tap.close()
        return original(*args, **kwargs)


def tells_its_end(pipe: Any) -> bool:
    """Whether this pipeline says when its call is over."""
    return callable(getattr(pipe, _END, None))


def watch_of(pipe: Any) -> PipeWatch | None:
    """The watch on this pipeline, if there is one."""
    for name in (_END, _BEGIN, _SWAP):
        found = getattr(pipe, "__dict__", {}).get(name)
        owner = getattr(found.around, "__self__", None) if isinstance(found, MethodTap) else None
        if isinstance(owner, PipeWatch) and owner.pipe is pipe:
            return owner
    return None
