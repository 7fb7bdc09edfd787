"""What is enabled on one object: looked up once, taken off, and enabled again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from dcache.engine.config import SessionConfig
from dcache.engine.pipeline import PipelineIntercept, sessions_of, watch_of
from dcache.engine.session import Session
from dcache.engine.trace import trace_of
from dcache.identity.denoisers import candidates, is_pipeline
from dcache.identity.detect import DenoiserDetector
from dcache.intercept.conflicts import refuse_other_cache
from dcache.schedule import Schedule
from dcache.stats import Stats, merge


@dataclass(frozen=True)
class Enabled:
    """What is enabled on a pipeline or a denoiser.

    Attributes:
        target: the object.
        watch: the watch on it, None for a bare module and where nothing is enabled.
        sessions: name -> session of its denoisers.
    """

    target: Any
    watch: PipelineIntercept | None
    sessions: Mapping[str, Session]

    @staticmethod
    def on(target: Any) -> Enabled:
        """Look at an object.

        Raises:
            DcacheError: it is no module and no pipeline.
        """
        watch = watch_of(target)
        return Enabled(target, watch, sessions_of(target, watch))

    @property
    def looking(self) -> bool:
        """Whether a run has still to show which modules are denoisers."""
        return self.watch is not None and self.watch.scout is not None

    def stats(self) -> Stats:
        """What the run under way, or the last one, did."""
        return merge({name: session.stats() for name, session in self.sessions.items()})

    def trace(self) -> Schedule | None:
        """The same run as a schedule, None where there was none."""
        return trace_of(self.sessions)

    def remove(self) -> None:
        """Take everything off."""
        if self.watch is not None:
            self.watch.remove()
        for session in self.sessions.values():
            session.remove()

    def restorer(self) -> Callable[[], None]:
        """What enables the same again, with what it had counted."""
        if self.watch is not None and self.looking and not self.sessions:
            return partial(self.watch.renew, self.target)
        # Not the sessions themselves: they will have been taken off.
        before = [(s.module, s.config, s.state, s.warned) for s in self.sessions.values()]

        def restore() -> None:
            again = []
            for module, config, state, warned in before:
                session = Session(module, config)
                session.state, session.warned = state, warned
                again.append(session)
            if again:
                connect(self.target, again)

        return restore


def connect(target: Any, sessions: Sequence[Session]) -> None:
    """Let sessions know the pipeline whose denoisers they are on; nothing to do for a bare module."""
    if not is_pipeline(target):
        return
    watch = PipelineIntercept(target)
    watch.sessions += sessions
    for session in sessions:
        watch.connect(session)


def find_denoisers(pipe: Any, configure: Callable[[str], SessionConfig]) -> None:
    """Let the first run of a pipeline show which modules are denoisers, and enable caching on these.

    Args:
        pipe: a pipeline of which no module takes a timestep by name.
        configure: the configuration of a denoiser, by its name.

    Raises:
        DcacheError: a module is compiled as a whole.
    """
    watch = PipelineIntercept(pipe)

    def take(name: str, module: nn.Module) -> None:
        refuse_other_cache(module)
        session = Session(module, configure(name))
        watch.sessions.append(session)
        watch.connect(session)

    try:
        watch.scout = DenoiserDetector(pipe, candidates(pipe), take, watch)
    except BaseException:
        watch.remove()
        raise
    watch.renew = partial(find_denoisers, configure=configure)
