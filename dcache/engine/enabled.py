"""`Enabled`: the sessions of one pipeline or denoiser, as a value to read, remove and restore."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from dcache.engine.config import SessionConfig
from dcache.engine.inner_denoiser import unwatch_outer, watch_outer
from dcache.engine.pipeline import PipelineIntercept, sessions_of, watch_of
from dcache.engine.session import Session, session_of
from dcache.errors import DcacheError
from dcache.identity.denoisers import candidates, is_pipeline
from dcache.identity.detect import DenoiserDetector
from dcache.intercept.conflicts import refuse_compiled, refuse_other_cache
from dcache.schedule import Schedule
from dcache.stats import Stats, merge

# Stats and trace of the last run, for objects on which caching was disabled since.
_last_runs: weakref.WeakKeyDictionary[Any, tuple[Stats, Schedule | None]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Enabled:
    """The sessions of a pipeline or a denoiser, when it was looked up.

    Attributes:
        target: the object.
        intercept: the pipeline's intercept; None for a bare module, or if nothing is enabled.
        sessions: denoiser name -> session.
    """

    target: Any
    intercept: PipelineIntercept | None
    sessions: Mapping[str, Session]

    @staticmethod
    def on(target: Any) -> Enabled:
        """Look up the sessions of an object.

        Raises:
            DcacheError: it is neither a module nor a pipeline.
        """
        intercept = watch_of(target)
        return Enabled(target, intercept, sessions_of(target, intercept))

    @property
    def detecting(self) -> bool:
        """True if the denoisers are not known yet and are detected in the next run."""
        return self.intercept is not None and self.intercept.scout is not None

    def stats(self) -> Stats:
        """Stats of the run under way, or of the last one."""
        return merge({name: session.stats() for name, session in self.sessions.items()})

    def trace(self) -> Schedule | None:
        """The same run as a schedule, None if there was none."""
        from dcache.engine.trace import trace_of

        return trace_of(self.sessions)

    def remove(self) -> None:
        """Remove the intercept and all sessions."""
        if self.intercept is not None:
            self.intercept.remove()
        if isinstance(self.target, nn.Module):
            unwatch_outer(self.target)
        for session in self.sessions.values():
            session.remove()

    def restorer(self) -> Callable[[], None]:
        """A function that enables the same again, with the same counts, after `remove`."""
        if self.intercept is not None and self.detecting and not self.sessions:
            return partial(self.intercept.renew, self.target)
        # The parts of the sessions, because a removed session cannot be used again.
        parts = [(s.module, s.config, s.state, s.warned) for s in self.sessions.values()]

        def restore() -> None:
            sessions = []
            for module, config, state, warned in parts:
                session = Session(module, config)
                session.state, session.warned = state, warned
                sessions.append(session)
            if sessions:
                connect(self.target, sessions)

        return restore


def _trace_or_none(enabled_now: Enabled) -> Schedule | None:
    """The trace, None where the run has none that replays: taking caching off does not fail for that."""
    try:
        return enabled_now.trace()
    except DcacheError:
        return None


def take_off(enabled_now: Enabled) -> None:
    """Remove everything that is enabled on an object; remember stats and trace of its last run."""
    try:
        if enabled_now.sessions:
            last = (enabled_now.stats(), _trace_or_none(enabled_now))
            # An object that defines equality and no hash (a dataclass) is not remembered.
            with suppress(TypeError):
                _last_runs[enabled_now.target] = last
    finally:
        enabled_now.remove()


def replace(
    before: Enabled, modules: Mapping[str, nn.Module], configure: Callable[[str], SessionConfig]
) -> None:
    """Remove what is enabled on an object and enable caching on its denoisers; where that fails, put it back.

    Args:
        before: what is enabled on the object now.
        modules: denoiser name -> denoiser; empty where they have to be detected in the pipeline's next run.
        configure: returns the configuration of a denoiser, by its name.

    Raises:
        DcacheError: a denoiser is compiled as a whole or has another cache, or a configuration does not fit.
    """
    for module in modules.values():
        refuse_compiled(module)
        if session_of(module) is None:
            refuse_other_cache(module)
    restore = before.restorer()
    sessions: list[Session] = []
    try:
        take_off(before)
        for name, module in modules.items():
            sessions.append(Session(module, configure(name)))
        if modules:
            connect(before.target, sessions)
        else:
            find_denoisers(before.target, configure)
    except BaseException:
        for session in sessions:
            session.remove()
        restore()
        raise


def stats_of(target: Any) -> Stats | None:
    """Stats of the run under way or the last one, also after `take_off`; None where nothing was enabled."""
    enabled_now = Enabled.on(target)
    if enabled_now.sessions or enabled_now.detecting:
        return enabled_now.stats()
    return _last_run(target)[0]


def schedule_of(target: Any) -> Schedule | None:
    """The same run as a schedule; None if there was none."""
    enabled_now = Enabled.on(target)
    return enabled_now.trace() if enabled_now.sessions else _last_run(target)[1]


def _last_run(target: Any) -> tuple[Stats | None, Schedule | None]:
    """Stats and trace of what was enabled on an object before."""
    try:
        return _last_runs.get(target, (None, None))
    except TypeError:
        return None, None


def connect(target: Any, sessions: Sequence[Session]) -> None:
    """Connect the sessions of a pipeline's denoisers with the pipeline, or of a policy's with the policy."""
    if isinstance(target, nn.Module) and sessions:
        watch_outer(target, sessions[0].module, reset_run)
    if not is_pipeline(target):
        return
    intercept = PipelineIntercept(target)
    intercept.sessions += sessions
    for session in sessions:
        intercept.connect(session)
        if session.tuner is not None:
            session.tuner.attach(session)


def reset_run(module: nn.Module, made: bool, failed: bool) -> None:
    """End the run under way in this thread of a policy's denoiser, where caching is enabled on it.

    Args:
        module: the denoiser.
        made: whether a chunk of actions was made, which cannot be without a call of the denoiser.
        failed: whether an exception ended the run.
    """
    session = session_of(module)
    if session is None:
        return
    session.reset(failed=failed)
    if made and session.attachment.idle():
        session.warn(
            f"a chunk of actions was made without a call of {type(module).__name__}, on which caching lies: "
            "nothing is cached. Enable caching on the module that every denoising step calls, or name the "
            "method: call='METHOD'."
        )


def end_failed(target: Any) -> None:
    """End the runs under way in this thread that an exception broke off: their lengths are not learned."""
    for session in Enabled.on(target).sessions.values():
        session.reset(failed=True)


def find_denoisers(pipe: Any, configure: Callable[[str], SessionConfig]) -> None:
    """Detect the denoisers of a pipeline during its next run, and enable caching on them.

    Args:
        pipe: a pipeline without a module that has a timestep argument.
        configure: returns the configuration of a denoiser, by its name.

    Raises:
        DcacheError: a module is compiled as a whole.
    """
    intercept = PipelineIntercept(pipe)

    def on_found(name: str, module: nn.Module) -> None:
        refuse_other_cache(module)
        session = Session(module, configure(name))
        intercept.sessions.append(session)
        intercept.connect(session)

    try:
        intercept.scout = DenoiserDetector(pipe, candidates(pipe), on_found, intercept)
    except BaseException:
        intercept.remove()
        raise
    intercept.renew = partial(find_denoisers, configure=configure)
