"""The front door: enable, disable, enabled, stats, trace, step."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from torch import nn

from dcache import methods
from dcache.engine.budget import Budget
from dcache.engine.config import SessionConfig
from dcache.engine.pipeline import PipeWatch, sessions_of, watch_of
from dcache.engine.session import Session, session_of
from dcache.engine.trace import trace_of
from dcache.errors import DcacheError
from dcache.identity.denoisers import candidates, denoisers, is_pipeline
from dcache.identity.detect import Scout
from dcache.identity.manual import Told
from dcache.identity.run import Run
from dcache.intercept.conflicts import refuse_compiled, refuse_other_cache
from dcache.method import Method
from dcache.methods.replay import replay
from dcache.schedule import Schedule
from dcache.stats import Stats, merge

Target = TypeVar("Target")
ENGINE_OPTIONS = ("compile", "strict", "lowering", "max_cache_bytes")
# What the last run did on objects that nothing is enabled on any more.
_last: weakref.WeakKeyDictionary[Any, tuple[Stats, Schedule | None]] = weakref.WeakKeyDictionary()


def enable(pipe_or_module: Target, method: Any = None, **options: Any) -> Target:
    """Make a pipeline or denoiser remember; returns the same object. Enabling again replaces.

    Args:
        pipe_or_module: a diffusers pipeline, or any torch denoiser.
        method: a preset's name, a preset object, a `Schedule`, the path of a schedule file, or None for the
            default.
        **options: options of the preset when `method` is a name, and of the engine: `compile` (True, or a
            dict of `torch.compile` arguments: the blocks that were found are compiled, one by one), `strict`
            (a schedule made with another config, sampler, guidance or resolution is refused instead of
            warned about), `lowering` ("auto", or "replay" for the slow reference), `max_cache_bytes` (a
            number, or text such as "512MB": the most that all histories may hold; docs/memory.md).

    Raises:
        DcacheError: what was asked cannot be done on this model; nothing was changed then.
    """
    engine = {name: options.pop(name) for name in ENGINE_OPTIONS if name in options}
    resolved = resolve(method, options)
    shared = _shared(engine)
    modules = denoisers(pipe_or_module)
    for module in modules.values():
        refuse_compiled(module)
        if session_of(module) is None:
            refuse_other_cache(module)
    restore = _restorer(pipe_or_module)
    disable(pipe_or_module)
    sessions: list[Session] = []
    try:
        for name, module in modules.items():
            config = _config(resolved, name, len(modules) == 1, shared)
            sessions.append(Session(module, config))
        if modules:
            _connect(pipe_or_module, sessions)
        else:
            _watch(pipe_or_module, resolved, shared)
    except BaseException:
        for session in sessions:
            session.remove()
        restore()
        raise
    return pipe_or_module


def disable(pipe_or_module: Target) -> Target:
    """Take caching off; the object is exactly what it was. Not an error where nothing is enabled."""
    watch = watch_of(pipe_or_module)
    sessions = sessions_of(pipe_or_module)
    try:
        if sessions:
            _last[pipe_or_module] = (stats(pipe_or_module), trace_of(sessions))
    finally:
        if watch is not None:
            watch.remove()
        for session in sessions.values():
            session.remove()
    return pipe_or_module


@contextmanager
def enabled(pipe_or_module: Target, method: Any = None, **options: Any) -> Iterator[Target]:
    """`enable` for the duration of a with-block; afterwards what was enabled before is enabled again."""
    restore = _restorer(pipe_or_module)
    enable(pipe_or_module, method, **options)
    try:
        yield pipe_or_module
    finally:
        disable(pipe_or_module)
        restore()


def stats(pipe_or_module: Any) -> Stats:
    """What the run under way did so far, or the last run if none is; also after `disable`.

    Raises:
        DcacheError: caching was never enabled on this object.
    """
    sessions = sessions_of(pipe_or_module)
    watch = watch_of(pipe_or_module)
    if not sessions and (watch is None or watch.scout is None):
        if pipe_or_module in _last:
            return _last[pipe_or_module][0]
        raise DcacheError(
            f"caching is not enabled on this {type(pipe_or_module).__name__}: call dcache.enable first"
        )
    return merge({name: session.stats() for name, session in sessions.items()})


def trace(pipe_or_module: Any) -> Schedule:
    """The run under way, or the last one, as a `Schedule`; replaying it gives the same bits.

    Raises:
        DcacheError: there was no run yet.
    """
    sessions = sessions_of(pipe_or_module)
    schedule = trace_of(sessions) if sessions else _last.get(pipe_or_module, (None, None))[1]
    if schedule is None:
        raise DcacheError("there is no run to trace yet: enable a method and call the pipeline first")
    return schedule


def step(
    module: Any,
    index: int,
    sigma: float | None = None,
    branch: str | None = None,
    timestep: float | None = None,
    steps: int | None = None,
    flow: bool = False,
) -> None:
    """Say, in a hand-written loop, which evaluation and guidance branch the next denoiser calls belong to.

    Args:
        module: the denoiser (or a pipeline with one denoiser) that caching is enabled on.
        index: evaluation, from 0. An index below the last one, or 0 again for a branch that was already
            called, opens a new run.
        sigma: noise level, for the clocks "sigma" and "logsnr".
        branch: name of the guidance branch; None numbers the calls within an evaluation.
        timestep: timestep value, for the clock "timestep".
        steps: number of evaluations of the run, where known (for `last=True` and schedules).
        flow: whether sigma is that of flow matching (0 to 1) rather than noise over signal.
    """
    sessions = list(sessions_of(module).values())
    if len(sessions) != 1:
        raise DcacheError(
            f"dcache.step needs a module with caching enabled on it, found {len(sessions)} denoisers"
        )
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise DcacheError(f"index must be a whole number of at least 0, got {index!r}")
    tracker = sessions[0].tracker
    told = tracker.told
    called_again = told is not None and told.run.calls > 0 and branch is not None and branch in told.seen
    if told is None or index < told.run.index or (index == told.run.index == 0 and called_again):
        told = tracker.told = Told(Run(started=True, count=steps, flow=flow), branch)
    if index != told.run.index:
        told.run.index = index
        told.run.calls = 0
        told.seen.clear()
    told.branch = branch
    told.seen.add(branch or "")
    told.run.tell(timestep, sigma)


def resolve(method: Any, options: Mapping[str, Any]) -> Method | Schedule:
    """The method or schedule that is meant by what `enable` takes.

    Args:
        method: as for `enable`.
        options: of the preset, where `method` is a name.

    Raises:
        DcacheError: it means nothing, or takes no such options.
    """
    if method is None:
        return methods.make("default", **options)
    if isinstance(method, str) and methods.find(method) is not None:
        return methods.make(method, **options)
    if options:
        what = f"method {method!r}" if isinstance(method, str) else f"a {type(method).__name__}"
        raise DcacheError(
            f"unknown option(s) {', '.join(options)} for {what}: the engine takes "
            f"{', '.join(ENGINE_OPTIONS)}; a preset's own options go with its name, as in "
            "dcache.enable(pipe, 'interval', interval=3)"
        )
    if isinstance(method, Method | Schedule):
        return method
    if isinstance(method, os.PathLike) or (
        isinstance(method, str) and (method.endswith(".json") or os.sep in method)
    ):
        return Schedule.load(method)
    if isinstance(method, str):
        return methods.make(method)
    raise DcacheError(
        f"method must be a preset's name, a preset object, a Schedule or a path, got {type(method).__name__}"
    )


def _shared(engine: Mapping[str, Any]) -> dict[str, Any]:
    """What the configurations of all denoisers of one `enable` have in common; the budget is one."""
    compiling, limit = engine.get("compile", False), engine.get("max_cache_bytes")
    return {
        "compile_options": (
            None if not compiling else dict(compiling) if isinstance(compiling, Mapping) else {}
        ),
        "lowering": engine.get("lowering", "auto"),
        "strict": bool(engine.get("strict", False)),
        "budget": None if limit is None else Budget(limit),
    }


def _config(method: Method | Schedule, name: str, single: bool, shared: Mapping[str, Any]) -> SessionConfig:
    """The configuration of one denoiser."""
    if isinstance(method, Schedule):
        return SessionConfig(
            replay(method, name, single),
            name,
            made_with="the schedule",
            sampler=method.sampler,
            guidance=method.guidance,
            **shared,
        )
    return SessionConfig(method, name, made_with=f"the profile of {method.name}", **shared)


def _watch(pipe: Any, method: Method | Schedule, shared: Mapping[str, Any]) -> None:
    """Let the first run show which modules are denoisers."""
    single = not isinstance(method, Schedule) or len(method.components) == 1
    watch = PipeWatch(pipe)

    def take(name: str, module: nn.Module) -> None:
        refuse_other_cache(module)
        config = replace(_config(method, name, single, shared), skips_first=True)
        session = Session(module, config)
        watch.sessions.append(session)
        watch.connect(session)

    try:
        watch.scout = Scout(pipe, candidates(pipe), take)
    except BaseException:
        watch.remove()
        raise
    watch.renew = partial(_watch, method=method, shared=shared)


def _connect(target: Any, sessions: list[Session]) -> None:
    if not is_pipeline(target):
        return
    watch = watch_of(target) or PipeWatch(target)
    watch.sessions += sessions
    for session in sessions:
        watch.connect(session)


def _restorer(target: Any) -> Callable[[], None]:
    """What enables again what is enabled now, with what it had counted."""
    watch, sessions = watch_of(target), sessions_of(target)
    if watch is not None and watch.scout is not None and not sessions:
        return partial(watch.renew, target)
    # Not the sessions themselves: they will have been taken off.
    before = [(s.module, s.config, s.state, s.warned) for s in sessions.values()]

    def restore() -> None:
        again = []
        for module, config, state, warned in before:
            session = Session(module, config)
            session.state, session.warned = state, warned
            again.append(session)
        if again:
            _connect(target, again)

    return restore
