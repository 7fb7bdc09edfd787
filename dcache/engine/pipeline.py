"""What dcache watches of a pipeline: begin and end of its call, denoisers that are swapped between runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from threading import get_ident
from typing import Any

from torch import nn

from dcache.engine.inner_denoiser import watch_of_outer
from dcache.engine.session import Session, session_of
from dcache.errors import DcacheError
from dcache.identity.callers import CallMark, call_argument, call_code, call_frame, is_within_call
from dcache.identity.denoisers import denoisers, is_pipeline
from dcache.identity.detect import DenoiserDetector
from dcache.identity.guider import GuiderIntercept, guidance_of, guider_intercepts
from dcache.identity.run import Run
from dcache.identity.sampler import is_sampler, tap_of
from dcache.identity.walked import noticed
from dcache.intercept.conflicts import refuse_compiled, refuse_other_cache
from dcache.intercept.method import MethodIntercept, listener_on, tap_on
from dcache.util.checks import is_number

_BEGIN = "progress_bar"
_END = "maybe_free_model_hooks"
# Modular pipelines have neither; components are swapped by this.
_SWAP = "register_components"
# The variable of a modular pipeline's call that has what its blocks hand on.
_STATE = "state"
# Called once at the very beginning of a call, which may hold several runs.
_CHECK = "check_inputs"


class PipeOwner:
    """A pipeline as its denoisers' sessions know it: they do not keep it alive.

    Args:
        pipe: the pipeline.
        watch: the watch on it where it has no method that could hold one, else None.
    """

    def __init__(self, pipe: Any, watch: PipelineIntercept | None) -> None:
        self.pipe: weakref.ref[Any] = weakref.ref(pipe)
        self.watch = watch

    @property
    def ends_itself(self) -> bool:
        """Whether the pipeline says when its call is over."""
        return callable(getattr(self.pipe(), _END, None))

    @property
    def guidance(self) -> float | None:
        """The guidance scale of the call under way, or of the last one where it keeps it."""
        pipe = self.pipe()
        scale = guidance_of(pipe)
        given = call_argument(pipe, "guidance_scale") if scale is None and pipe is not None else None
        return float(given) if is_number(given) else scale

    def call_frame(self) -> CallMark | None:
        """What tells its call under way from others, where that can be known; else None."""
        pipe = self.pipe()
        if callable(getattr(pipe, _SWAP, None)):
            # A modular pipeline makes a state of its own for each call, also where it is given one.
            state = call_argument(pipe, _STATE)
            return None if state is None else CallMark(state=weakref.ref(state))
        code = call_code(pipe)
        frame = None if code is None or _END not in code.co_names else call_frame(code)
        return None if frame is None else CallMark(frame)

    def follow(self, session: Session) -> None:
        """Move the session if its denoiser was replaced in the pipeline."""
        watch = self.watch or watch_of(self.pipe())
        if watch is not None:
            watch.follow(session)


class PipelineIntercept:
    """Belongs to one pipeline; lives in its attributes: taps of the methods that begin and end its call.

    Args:
        pipe: the pipeline; it is not kept alive.

    Attributes:
        pipe: a weak reference to it.
        sessions: those of its denoisers.
        scout: looks for the denoisers, while only a run can show them.
        renew: called with the pipeline, enables again what was enabled with the scout.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe: weakref.ref[Any] = weakref.ref(pipe)
        self.sessions: list[Session] = []
        self.scout: DenoiserDetector | None = None
        self.renew: Callable[[Any], None] = lambda _pipe: None
        self.guiders: list[GuiderIntercept] = guider_intercepts(pipe, [], _name_branch)
        for name, around in {
            _CHECK: self._check,
            _BEGIN: self._begin,
            _END: self._end,
            _SWAP: self._swap,
        }.items():
            if callable(getattr(pipe, name, None)):
                MethodIntercept(pipe, name, around).install()

    def remove(self) -> None:
        """Take the watch off."""
        if self.scout is not None:
            self.scout.remove()
            self.scout = None
        for method_tap in _taps_of(self.pipe(), self):
            method_tap.remove()
        for guider in self.guiders:
            guider.remove()
        self.guiders, self.sessions = [], []

    def live(self) -> list[Session]:
        """The denoisers' sessions as they are now: another pipe may have enabled something else on them."""
        now = [session_of(session.module) for session in self.sessions]
        return [session for session in now if session is not None]

    def connect(self, session: Session) -> None:
        """Let the session know the pipeline and its sampler."""
        pipe = self.pipe()
        # Offloading hooks may replace `forward` before the first call.
        session.attachment.trust_forward()
        session.owners.append(PipeOwner(pipe, None if _watch_in_methods(pipe) is self else self))
        sampler = getattr(pipe, "scheduler", None)
        if is_sampler(sampler):
            session.tracker.watch(sampler)

    def join(self, session: Session) -> None:
        """Get to know a session that another pipe has put on the denoiser they share."""
        pipe = self.pipe()
        if any(owner.pipe() is pipe for owner in session.owners):
            return
        self.connect(session)
        watched = tap_of(getattr(pipe, "scheduler", None))
        if watched is not None and watched.run is None:
            watched.open_from(watched.sampler)

    def follow(self, session: Session) -> None:
        """Move a session if its denoiser was replaced in the pipeline; histories start afresh.

        Raises:
            DcacheError: the new denoiser is compiled as a whole, has another cache, or lacks the sites.
        """
        self.guiders = guider_intercepts(self.pipe(), self.guiders, _name_branch)
        module = getattr(self.pipe(), session.component, None) if session.component else session.module
        if module is session.module or not isinstance(module, nn.Module):
            return
        refuse_compiled(module)
        new = session_of(module)
        if new is None:
            refuse_other_cache(module)
            new = self._reopened(session, module)
        # Not the session itself: what this pipeline had on the denoiser may have been replaced since.
        self.sessions = [new if s.module is session.module else s for s in self.sessions]
        self.connect(new)
        pipe = self.pipe()
        session.owners[:] = [owner for owner in session.owners if owner.pipe() is not pipe]
        if not session.owners:
            session.remove()

    def _reopened(self, session: Session, module: nn.Module) -> Session:
        """The same on another denoiser."""
        pipe = self.pipe()
        ours = {intercept.module for intercept in session.binding.intercepts}
        if ours.isdisjoint(module.modules()) or any(owner.pipe() is not pipe for owner in session.owners):
            return Session(module, session.config)
        # The denoiser was wrapped or unwrapped (peft): the blocks are the same and change hands.
        session.binding.remove()
        try:
            return Session(module, session.config)
        except BaseException:
            session.binding.install()
            raise

    def _check(self, original: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        if owner is self.pipe() and callable(getattr(owner, _END, None)):

            def begin(session: Session) -> None:
                session.lifecycle.refuse_other_thread(getattr(owner, "scheduler", None))
                session.lifecycle.begin_call()

            self._each(begin)
        return original(*args, **kwargs)

    def _begin(self, original: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        # A run whose sampler was replaced as well as its denoiser has told nobody that it began.
        if owner is self.pipe():
            self._each(self.join)
            self._each(self.follow)
            sampler = getattr(owner, "scheduler", None)
            args, kwargs = noticed(sampler, args, kwargs, self._walked)
        return original(*args, **kwargs)

    def _walked(self, run: Run | None) -> None:
        """The pipeline's loop is over."""
        self._each(lambda session: session.lifecycle.walked(run))

    def _swap(self, original: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if owner is self.pipe():
            self._each(self.follow)
        return result

    def _each(self, act: Callable[[Session], None]) -> None:
        """Do something to each session, with this thread's run active."""
        for session in self.live():
            with session.lanes.here():
                # Another thread may have taken it off meanwhile.
                if not session.removed:
                    act(session)

    def _end(self, original: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        if owner is self.pipe():
            # Diffusers' way to cancel: the loop goes on without the denoiser, and the call ends as usual.
            whole = not getattr(owner, "_interrupt", False)
            returns = is_within_call(owner)

            def end(session: Session) -> None:
                session.lifecycle.end_call(whole, returns)
                for watched in session.tracker.taps:
                    # Another pipeline may use the denoiser in another thread.
                    if watched.thread == get_ident():
                        watched.close()

            self._each(end)
            if self.scout is not None:
                self.scout.end()
                if self.scout.found:
                    self.scout = None
                else:
                    self.scout.tap.close()
        return original(*args, **kwargs)


def watch_of(pipe: Any) -> PipelineIntercept | None:
    """The watch on this pipeline, if there is one."""
    return _watch_in_methods(pipe) or _watch_without_methods(pipe)


def _watch_in_methods(pipe: Any) -> PipelineIntercept | None:
    for name in (_END, _BEGIN, _SWAP, _CHECK):
        watch = listener_on(pipe, name)
        if isinstance(watch, PipelineIntercept) and watch.pipe() is pipe:
            return watch
    return None


def _watch_without_methods(pipe: Any) -> PipelineIntercept | None:
    """The watch on a pipeline that has none of the methods which could hold it.

    It is known to what looks for the pipeline's denoisers, and to the sessions on these.
    """
    watched = None if isinstance(pipe, nn.Module) else tap_of(getattr(pipe, "scheduler", None))
    for listener in () if watched is None else tuple(watched.listeners):
        watch = listener.watch_of(pipe)
        if isinstance(watch, PipelineIntercept):
            return watch
    return None


def sessions_of(target: Any, watch: PipelineIntercept | None = None) -> dict[str, Session]:
    """Name -> session of the denoisers of a pipeline, or of a bare module (named ""), that are cached now.

    Args:
        target: the pipeline or module.
        watch: the watch on it, where that is known.

    Raises:
        DcacheError: the object is no module and no pipeline.
    """
    watch = watch or watch_of(target)
    if watch is not None:
        return {session.component: session for session in watch.live()}
    if isinstance(target, nn.Module):
        outer = watch_of_outer(target)
        session = session_of(target if outer is None else outer.part)
        return {session.component: session} if session is not None else {}
    if is_pipeline(target):
        each = {name: session_of(module) for name, module in denoisers(target).items()}
        return {name: session for name, session in each.items() if session is not None}
    raise DcacheError(f"expected a diffusers pipeline or a torch module, got {type(target).__name__}")


def _taps_of(pipe: Any, watch: PipelineIntercept) -> list[MethodIntercept]:
    """The watch's taps that are in place."""
    each = [tap_on(pipe, name) for name in (_CHECK, _BEGIN, _END, _SWAP)]
    return [t for t in each if t is not None and t.listener is watch]


def _name_branch(denoiser: nn.Module, condition: str | None) -> None:
    """A guider says which condition the denoiser's next calls are for."""
    session = session_of(denoiser)
    if session is not None:
        with session.lanes.here():
            session.context = condition
