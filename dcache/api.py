"""The front door: enable, disable, enabled, stats, trace, step, memory_estimate."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import nn

from dcache import methods
from dcache.engine.budget import Budget
from dcache.engine.pipeline import PipeWatch, watch_of
from dcache.engine.session import Session, session_of
from dcache.engine.trace import trace_of
from dcache.errors import DcacheError
from dcache.identity.denoisers import candidates, config_digest, denoisers, is_pipeline
from dcache.identity.detect import Scout
from dcache.identity.guider import guidance_of
from dcache.identity.manual import Told
from dcache.identity.run import Run
from dcache.intercept.conflicts import refuse_compiled, refuse_other_cache
from dcache.method import Method
from dcache.methods.replay import replay
from dcache.schedule import Schedule
from dcache.stats import Stats, merge

Target = TypeVar("Target")
ENGINE_OPTIONS = ("compile", "strict", "lowering", "max_cache_bytes")
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
    resolved = _resolve(method, options)
    if engine.get("max_cache_bytes") is not None:
        engine["max_cache_bytes"] = Budget(engine["max_cache_bytes"])
    found = denoisers(pipe_or_module)
    for module in found.values():
        refuse_compiled(module)
        if session_of(module) is None:
            refuse_other_cache(module)
    before = _before(pipe_or_module)
    disable(pipe_or_module)
    sessions: list[Session] = []
    try:
        for name, module in found.items():
            sessions.append(_session(module, name, resolved, engine, single=len(found) == 1))
        if found:
            _connect(pipe_or_module, sessions)
        else:
            _watch(pipe_or_module, resolved, engine)
    except BaseException:
        for session in sessions:
            session.remove()
        before()
        raise
    return pipe_or_module


def _watch(pipe: Any, method: Method | Schedule, engine: Mapping[str, Any]) -> None:
    """Let the first run show which modules are denoisers."""
    single = not isinstance(method, Schedule) or len(method.components) == 1
    watch = PipeWatch(pipe, [])

    def take(name: str, module: nn.Module) -> None:
        refuse_other_cache(module)
        session = _session(module, name, method, {**engine, "late": True}, single)
        watch.sessions.append(session)
        watch.connect(session)

    try:
        watch.scout = Scout(pipe, candidates(pipe), take)
    except BaseException:
        watch.remove()
        raise
    watch.renew = lambda: _watch(pipe, method, engine)


def disable(pipe_or_module: Target) -> Target:
    """Take caching off; the object is exactly what it was. Not an error where nothing is enabled."""
    watch = watch_of(pipe_or_module)
    sessions = _sessions(pipe_or_module)
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
    before = _before(pipe_or_module)
    enable(pipe_or_module, method, **options)
    try:
        yield pipe_or_module
    finally:
        disable(pipe_or_module)
        before()


def stats(pipe_or_module: Any) -> Stats:
    """What the run under way did so far, or the last run if none is; also after `disable`.

    Raises:
        DcacheError: caching was never enabled on this object.
    """
    sessions = _sessions(pipe_or_module)
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
    if _sessions(pipe_or_module):
        found = trace_of(_sessions(pipe_or_module))
    else:
        found = _last.get(pipe_or_module, (None, None))[1]
    if found is None:
        raise DcacheError("there is no run to trace yet: enable a method and call the pipeline first")
    return found


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
    sessions = list(_sessions(module).values())
    if len(sessions) != 1:
        raise DcacheError(
            f"dcache.step needs a module with caching enabled on it, found {len(sessions)} denoisers"
        )
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise DcacheError(f"index must be a whole number of at least 0, got {index!r}")
    session = sessions[0]
    told = session.identity.told
    called_again = told is not None and told.run.calls > 0 and branch is not None and branch in told.seen
    if told is None or index < told.run.index or (index == told.run.index == 0 and called_again):
        told = session.identity.told = Told(Run(started=True, count=steps, flow=flow), branch)
    if index != told.run.index:
        told.run.index = index
        told.run.calls = 0
        told.seen.clear()
    told.branch = branch
    told.seen.add(branch or "")
    told.run.tell(timestep, sigma)


def memory_estimate(pipe_or_module: Any, method: Any = None, **call_kwargs: Any) -> int:
    """Bytes the histories of a method will hold, found by running one evaluation with these call arguments.

    Args:
        pipe_or_module: as for `enable`.
        method: as for `enable`.
        **call_kwargs: arguments of the pipeline's (or module's) call; the run is stopped after one
            evaluation.
    """
    from dcache.estimate import estimate

    return estimate(pipe_or_module, _resolve(method, {}), call_kwargs)


def _resolve(method: Any, options: dict[str, Any]) -> Method | Schedule:
    if method is None:
        return methods.make("default", **options)
    if isinstance(method, str) and method in methods.available():
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


def _session(
    module: nn.Module, name: str, method: Method | Schedule, engine: Mapping[str, Any], single: bool
) -> Session:
    compiling = engine.get("compile", False)
    options = None if not compiling else dict(compiling) if isinstance(compiling, Mapping) else {}
    lowering = engine.get("lowering", "auto")
    if lowering not in ("auto", "replay"):
        raise DcacheError(f"lowering must be 'auto' or 'replay', got {lowering!r}")
    chosen = replay(method, name, single) if isinstance(method, Schedule) else method
    session = Session(module, chosen, name, options, lowering)
    session.late = bool(engine.get("late", False))
    session.budget = engine.get("max_cache_bytes")
    if session.budget is not None:
        session.budget.join(session)
    session.remake = lambda other: _session(other, name, method, engine, single)
    strict, of = bool(engine.get("strict", False)), "the schedule"
    if not isinstance(method, Schedule):
        of = f"the profile of {chosen.name}"
    try:
        now = (type(module).__name__, config_digest(module))
        for what, made, here in zip(("model", "config"), chosen.made_for, now, strict=True):
            _compare(session, of, what, made, here, strict)
    except DcacheError:
        session.remove()
        raise
    if isinstance(method, Schedule):
        schedule = method

        def compare(opened: Session, run: Run) -> None:
            _compare(opened, of, "sampler", schedule.sampler, run.sampler, strict)
            made, now = schedule.guidance, guidance_of(opened.pipes)
            if made is not None and now is not None:
                _compare(opened, of, "guidance", f"{made:g}", f"{now:g}", strict)

        session.on_open = compare
    return session


def _before(target: Any) -> Callable[[], None]:
    """What enables again what is enabled now."""
    watch, sessions = watch_of(target), _sessions(target)
    if watch is not None and watch.scout is not None and not sessions:
        return watch.renew
    return lambda: _restore(target, sessions)


def _restore(target: Any, before: Mapping[str, Session]) -> None:
    """Enable what was enabled before, with what it had counted."""
    sessions = []
    for old in before.values():
        session = old.again(old.module)
        session.record, session.sampler, session.warned = old.record, old.sampler, old.warned
        sessions.append(session)
    if sessions:
        _connect(target, sessions)


def _compare(session: Session, of: str, what: str, made: str, now: str, strict: bool) -> None:
    if made and now and made != now:
        text = f"{of} was made with {what} {made} and is used with {now}"
        if strict:
            raise DcacheError(f"{text} (strict=True)")
        session.warn(text)


def _connect(target: Any, sessions: list[Session]) -> None:
    if not is_pipeline(target):
        return
    watch = watch_of(target) or PipeWatch(target, [])
    watch.sessions += sessions
    for session in sessions:
        watch.connect(session)


def _sessions(target: Any) -> dict[str, Session]:
    watch = watch_of(target)
    if watch is not None:
        return {s.component: s for s in watch.live()}
    if isinstance(target, nn.Module):
        session = session_of(target)
        return {session.component: session} if session is not None else {}
    if is_pipeline(target):
        found = {name: session_of(module) for name, module in denoisers(target).items()}
        return {name: session for name, session in found.items() if session is not None}
    raise DcacheError(f"expected a diffusers pipeline or a torch module, got {type(target).__name__}")
