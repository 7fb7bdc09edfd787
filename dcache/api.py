"""The front door: enable, disable, enabled, stats, trace, reset, step."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

from torch import nn

from dcache.engine.config import SessionConfig, shared_fields
from dcache.engine.enabled import Enabled, end_failed, replace, schedule_of, stats_of, take_off
from dcache.errors import DcacheError, DcacheWarning
from dcache.identity import token_models
from dcache.identity.denoisers import denoisers
from dcache.identity.manual import following
from dcache.identity.run import Run
from dcache.intercept.method import entry_point
from dcache.method import Method
from dcache.methods import language_models
from dcache.methods.replay import replay
from dcache.methods.resolve import resolve
from dcache.schedule import Schedule
from dcache.stats import Stats, merge_ranks
from dcache.util.checks import check_number, check_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dcache.diffusion_lm import RowMethod, RowStats
    from dcache.engine.session import Session
    from dcache.lm_kv import CacheStats, Policy
    from dcache.lm_kv.options import PolicyName, PolicyOptions
    from dcache.methods.options import PresetOptions
    from dcache.methods.registry import PresetName
    from dcache.observation.tuning.tuner import Tuner

Target = TypeVar("Target")
Compile = bool | Mapping[str, Any]
Offload = Literal["keep", "cpu", "drop"]
ENGINE_OPTIONS = ("compile", "strict", "lowering", "max_cache_bytes", "call", "memo")


@overload
def enable(
    target: Target,
    method: PresetName | None = None,
    *,
    compile: Compile = False,
    strict: bool = False,
    lowering: Literal["auto", "replay"] = "auto",
    max_cache_bytes: int | str | None = None,
    call: str | None = None,
    memo: Offload | None = None,
    **preset_options: Unpack[PresetOptions],
) -> Target: ...
@overload
def enable(
    target: Target, method: Policy | PolicyName, **policy_options: Unpack[PolicyOptions]
) -> Target: ...
@overload
def enable(
    target: Target,
    method: Method | RowMethod | Schedule | str | os.PathLike[str] | Callable[..., Method | RowMethod],
    *,
    compile: Compile = False,
    strict: bool = False,
    lowering: Literal["auto", "replay"] = "auto",
    max_cache_bytes: int | str | None = None,
    call: str | None = None,
    memo: Offload | None = None,
    **preset_options: Any,
) -> Target: ...
def enable(
    target: Target,
    method: Any = None,
    *,
    compile: Compile = False,
    strict: bool = False,
    lowering: str = "auto",
    max_cache_bytes: int | str | None = None,
    call: str | None = None,
    memo: Offload | None = None,
    **preset_options: Any,
) -> Target:
    """Enable caching on a pipeline, denoiser or language model, in place of what was enabled before.

    >>> import dcache
    >>> from dcache.demo.pipeline import call_options, load_pipeline
    >>> pipe = dcache.enable(load_pipeline(), "newton", interval=4)
    >>> image = pipe("a red circle", **call_options()).images[0]
    >>> dcache.stats(pipe).predicted
    13

    Args:
        target: a diffusers pipeline, any torch denoiser, or a language model: a causal one of transformers,
            or a masked-diffusion one.
        method: a preset's name ("newton", "FORA", "newton:interval=4"), a preset object or function, a
            `Schedule`, the path of a schedule file, "hub:owner/name" for one of Hugging Face's hub
            (docs/hub.md), or None for the default, which with speedup= is "tuned" and for a robot's policy is
            "policy_default"; for a language model a policy of `dcache.lm_kv`, for a masked-diffusion one a
            row method of `dcache.methods`, or their names.
        compile: True, or arguments of `torch.compile`: every transformer block is compiled by itself.
        strict: raise instead of warning where a schedule was made with another config, sampler, guidance or
            resolution.
        lowering: "auto", or "replay" for the slow reference implementation.
        max_cache_bytes: limit of the bytes of all histories together: a number, or text such as "512MB"
            (docs/memory.md).
        call: path of the method that every denoising step calls, where that calls no module (docs/policy.md).
        memo: also keep what depends on the timestep alone: "keep", "cpu" or "drop", as for `dcache.memo`.
        **preset_options: options of the preset or policy, where `method` is a name or a function.

    Returns:
        The same object.

    Raises:
        DcacheError: the method or an option does not fit this model; nothing was changed then.
    """
    from dcache.methods import row_models

    given = [compile is not False, strict is not False, lowering != "auto", max_cache_bytes is not None]
    engine = dict(zip(ENGINE_OPTIONS, [*given, call is not None, memo is not None], strict=True))
    if row_models.takes(target, method):
        row_models.enable(target, method, preset_options, engine)
        return target
    if call is None and token_models.is_language_model(target):
        _enable_policy(target, method, preset_options, engine)
        return target
    token_models.refuse_text_pipeline(target)
    resolved = resolve(method, preset_options, ENGINE_OPTIONS, target)
    _with_memo(target, memo, resolved, shared_fields(compile, strict, lowering, max_cache_bytes), call)
    return target


def disable(target: Target) -> Target:
    """Disable caching and restore the object exactly; without effect where nothing is enabled.

    What `dcache.memo` keeps is taken off too, and all weights are back.

    >>> import dcache
    >>> from dcache.demo.pipeline import load_pipeline
    >>> pipe = dcache.disable(dcache.enable(load_pipeline()))
    """
    _take_off(target)
    _memos("forget", target)
    return target


@overload
def enabled(
    target: Target,
    method: PresetName | None = None,
    *,
    compile: Compile = False,
    strict: bool = False,
    lowering: Literal["auto", "replay"] = "auto",
    max_cache_bytes: int | str | None = None,
    call: str | None = None,
    memo: Offload | None = None,
    **preset_options: Unpack[PresetOptions],
) -> AbstractContextManager[Target]: ...
@overload
def enabled(
    target: Target, method: Policy | PolicyName, **policy_options: Unpack[PolicyOptions]
) -> AbstractContextManager[Target]: ...
@overload
def enabled(
    target: Target,
    method: Method | RowMethod | Schedule | str | os.PathLike[str] | Callable[..., Method | RowMethod],
    *,
    compile: Compile = False,
    strict: bool = False,
    lowering: Literal["auto", "replay"] = "auto",
    max_cache_bytes: int | str | None = None,
    call: str | None = None,
    memo: Offload | None = None,
    **preset_options: Any,
) -> AbstractContextManager[Target]: ...
@contextmanager
def enabled(target: Target, method: Any = None, **options: Any) -> Iterator[Target]:
    """`enable` for the duration of a with-block; on exit the method that was enabled before is restored.

    >>> import dcache
    >>> from dcache.demo.pipeline import call_options, load_pipeline
    >>> with dcache.enabled(load_pipeline(), "interval", interval=2) as pipe:
    ...     image = pipe("a red circle", **call_options()).images[0]
    >>> dcache.stats(pipe).computed
    10

    Args:
        target: as for `enable`.
        method: as for `enable`.
        **options: as for `enable`.

    Raises:
        DcacheError: as `enable`.
    """
    restore = _restorer(target)
    enable(target, method, **options)
    try:
        yield target
    except BaseException:
        if not token_models.is_language_model(target):
            end_failed(target)
        raise
    finally:
        try:
            _take_off(target)
            if options.get("memo") is not None:
                _memos("forget", target)
        finally:
            restore()


@overload
def stats(target: PreTrainedModel) -> CacheStats | RowStats: ...
@overload
def stats(target: Any, *, ranks: bool = False) -> Stats: ...
def stats(target: Any, *, ranks: bool = False) -> Stats | CacheStats | RowStats:
    """Counts, bytes and seconds of the run under way, else of the last run; also after `disable`.

    >>> import dcache
    >>> from dcache.demo.pipeline import call_options, load_pipeline
    >>> pipe = dcache.enable(load_pipeline(), "interval", interval=2)
    >>> image = pipe("a red circle", **call_options()).images[0]
    >>> dcache.stats(pipe).computed_share
    0.5

    Args:
        target: a pipeline, denoiser or language model.
        ranks: gather those of all processes that have a part of the tokens (docs/parallel.md); every one of
            them has to call this then. Without context parallelism it changes nothing.

    Returns:
        `Stats`; for a causal language model the last text's `lm_kv.CacheStats`, for a masked-diffusion one
        `diffusion_lm.RowStats`.

    Raises:
        DcacheError: caching was never enabled on this object.
    """
    from dcache.methods import row_models

    rows = row_models.stats(target)
    if rows is not None:
        return rows
    if token_models.is_language_model(target):
        row_models.refuse_stats(target)
        return language_models.stats(target)
    figures = stats_of(target)
    figures = _memos("with_memo", target, figures) or figures
    if figures is None:
        raise DcacheError(f"caching is not enabled on this {type(target).__name__}: call dcache.enable first")
    return _of_ranks(target, figures) if ranks else figures


def trace(target: Any) -> Schedule:
    """The run under way, else the last run, as a `Schedule`; replaying it gives the same bits.

    >>> import dcache
    >>> from dcache.demo.pipeline import call_options, load_pipeline
    >>> pipe = dcache.enable(load_pipeline(), "interval", interval=2)
    >>> image = pipe("a red circle", **call_options()).images[0]
    >>> dcache.trace(pipe).components["transformer"].rows["*"]["trunk"][:4]
    (True, False, True, False)

    Args:
        target: a pipeline or denoiser.

    Raises:
        DcacheError: there was no run yet.
    """
    if token_models.is_language_model(target):
        raise DcacheError(f"{type(target).__name__} is a language model, which has no schedule to trace")
    schedule = schedule_of(target)
    if schedule is None:
        raise DcacheError(
            "there is no run to trace yet, or all of its calls were passed through (dcache.stats says "
            "why): enable a method and call the pipeline first"
        )
    return schedule


def reset(target: Any, full: bool = False) -> None:
    """End the run under way in this thread: what is remembered of it is freed, and the next call opens a run.

    A run that came to its end needs no reset. One that was broken off does where the next one cannot be told
    from it: a control loop that starts its next chunk of actions from the middle of the noise levels.

    >>> import dcache
    >>> from dcache.demo.pipeline import load_pipeline
    >>> pipe = dcache.enable(load_pipeline())
    >>> dcache.reset(pipe)

    Args:
        target: a pipeline, denoiser or policy.
        full: compute the next run completely, as where an observation jumped.

    Raises:
        DcacheError: caching is not enabled on this object.
    """
    sessions = {} if token_models.is_language_model(target) else Enabled.on(target).sessions
    if not sessions:
        raise DcacheError(
            f"dcache.reset needs an object with caching enabled on it, got {type(target).__name__}: call "
            "dcache.enable first (a language model's texts need no reset)"
        )
    for session in sessions.values():
        session.reset(full)


def step(
    module: Any,
    index: int,
    sigma: float | None = None,
    branch: str | None = None,
    timestep: float | None = None,
    steps: int | None = None,
    flow: bool = False,
) -> None:
    """Set the evaluation and guidance branch of the next denoiser calls of a hand-written loop.

    >>> import dcache, torch
    >>> from dcache.demo.pipeline import load_pipeline
    >>> model = dcache.enable(load_pipeline().transformer, "interval", interval=2)
    >>> x, text = torch.randn(1, 4, 8, 8), torch.randn(1, 3, model.config.caption_channels)
    >>> conditions = {"resolution": None, "aspect_ratio": None}
    >>> with torch.no_grad():
    ...     for i, t in enumerate((900.0, 600.0, 300.0)):
    ...         dcache.step(model, i, timestep=t)
    ...         out = model(x, text, timestep=torch.tensor([t]), added_cond_kwargs=conditions)
    >>> dcache.stats(model).predicted
    1

    Args:
        module: the denoiser (or a pipeline with one denoiser) that caching is enabled on.
        index: evaluation, from 0, below `steps`. An index below the last one opens a new run, and so does 0
            again for a branch that was already called, or, without a name, for a call with another sample.
            Loops that take turns are not mixed up, but only branches of different names are predicted then.
        sigma: noise level, for the clocks "sigma" and "logsnr".
        branch: name of the guidance branch; None numbers the calls within an evaluation.
        timestep: timestep value, for the clock "timestep".
        steps: number of evaluations of the run, where known (for `last=True` and schedules). Another number
            opens a new run.
        flow: True if sigma is that of flow matching (0 to 1), False if it is noise over signal.

    Raises:
        DcacheError: caching is not enabled on exactly one denoiser, or an argument is of the wrong type.
    """
    session = _one_session(module)
    index, steps = check_whole("index", index, 0), _optional(check_whole, "steps", steps, 1)
    sigma, timestep = _optional(check_number, "sigma", sigma), _optional(check_number, "timestep", timestep)
    _check_step(index, branch, steps, flow)
    with session.lanes.here():
        tracker = session.tracker
        manual = tracker.manual
        if manual is None or not manual.announce(index, branch, steps):
            run = Run(started=True, index=index, count=steps, flow=flow)
            manual = tracker.manual = following(manual, run, branch)
            manual.announce(index, branch, steps)
        manual.run.tell(timestep, sigma)


def _one_session(target: Any) -> Session:
    """The session of an object with one denoiser.

    Raises:
        DcacheError: caching is enabled on none, or on several.
    """
    sessions, name = Enabled.on(target).sessions, type(target).__name__
    if not sessions:
        raise DcacheError(
            f"dcache.step needs a module with caching enabled on it, got {name}: call dcache.enable first"
        )
    if len(sessions) > 1:
        raise DcacheError(
            f"dcache.step is for one denoiser, and this {name} has caching enabled on {', '.join(sessions)}: "
            f"give one of them, as in dcache.step(pipe.{next(iter(sessions))}, index=...)"
        )
    return next(iter(sessions.values()))


def _of_ranks(target: Any, figures: Stats) -> Stats:
    """Stats of all processes that have a part of the tokens, merged; unchanged where one has all."""
    from dcache.intercept.ranks import ranks_of

    groups = [ranks_of(module) for module in denoisers(target).values()]
    group = next((each for each in groups if each is not None), None)
    return figures if group is None else merge_ranks(group.gathered(figures))


def _with_memo(
    target: Any,
    memo: Offload | None,
    method: Method | Schedule,
    shared: Mapping[str, Any],
    call: str | None,
) -> None:
    """Enable a method, and make a memo where one is asked for; nothing is changed where either cannot be."""
    if memo is None:
        _replace(target, method, shared, call)
        return
    from dcache import time_memo

    time_memo.check(target, memo)
    _replace(target, method, shared, call)
    time_memo.memo(target, memo)


def _enable_policy(target: Any, method: Any, options: Mapping[str, Any], engine: Mapping[str, bool]) -> None:
    """Enable a policy on a causal language model, in place of a row method."""
    from dcache.methods import row_models

    restore = row_models.restorer(target)
    row_models.disable(target)
    try:
        language_models.enable(target, method, options, engine)
    except BaseException:
        if restore is not None:
            restore()
        raise


def _take_off(target: Any) -> None:
    """Disable what `enable` enabled; a memo stays."""
    from dcache.methods import row_models

    row_models.disable(target)
    if token_models.is_language_model(target):
        language_models.disable(target)
    else:
        take_off(Enabled.on(target))


def _memos(name: str, *given: Any) -> Any:
    """The result of a function of `dcache.time_memo`, None where no memo was ever made."""
    room = sys.modules.get("dcache.time_memo")
    return None if room is None else getattr(room, name)(*given)


def _restorer(target: Any) -> Callable[[], None]:
    """A function that enables what is enabled now once more, after `disable`."""
    from dcache.methods import row_models

    rows = row_models.restorer(target)
    if rows is not None:
        return rows
    if token_models.is_language_model(target):
        return language_models.restorer(target)
    return Enabled.on(target).restorer()


def _optional(check: Callable[..., Any], name: str, value: Any, *least: int) -> Any:
    """A number as `check` returns it, or None."""
    return None if value is None else check(name, value, *least)


def _check_step(index: int, branch: Any, steps: int | None, flow: Any) -> None:
    if steps is not None and index >= steps:
        raise DcacheError(f"index counts from 0 and must be below steps={steps}, got {index}")
    if not isinstance(flow, bool):
        raise DcacheError(f"flow must be True or False, got {flow!r}")
    if branch is not None and not isinstance(branch, str):
        raise DcacheError(f"branch must be a name or None, got {branch!r}")


def _replace(
    target: Any, method: Method | Schedule, shared: Mapping[str, Any], call: str | None = None
) -> None:
    """Disable what is enabled on an object and enable a method; if that fails, restore the previous state."""
    before = Enabled.on(target)
    modules = denoisers(target) if call is None else _entry_points(target, call)
    token_models.refuse_autoencoder(target)
    token_models.refuse_token_models(target, modules)
    single = len(modules) == 1
    modules = _scheduled(method, modules)
    if not modules:
        # The denoiser is detected during the first evaluation, which is therefore not cached. Later runs
        # skip it too, so that all runs give the same result.
        single = not isinstance(method, Schedule) or len(method.components) == 1
        shared = {**shared, "skips_first": True}
    replace(before, modules, partial(_config, method, single=single, shared=shared))


def _entry_points(target: Any, call: str) -> dict[str, nn.Module]:
    """The method that is the denoiser's call, as a module."""
    if not isinstance(target, nn.Module):
        raise DcacheError(
            f"call={call!r} is for a torch module, such as a policy, and {type(target).__name__} is none"
        )
    return {"": entry_point(target, call)}


def _scheduled(method: Method | Schedule, modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """The denoisers that a schedule has rows for; all where it has none of their names, or for a method."""
    if not isinstance(method, Schedule):
        return modules
    known = {name: module for name, module in modules.items() if name in method.components}
    if known and len(known) < len(modules):
        # Versatile Diffusion has two and calls one of them.
        others = ", ".join(name for name in modules if name not in known)
        warnings.warn(
            f"the schedule has no rows for {others}, which is therefore not cached",
            DcacheWarning,
            stacklevel=5,
        )
    return known or modules


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
    return SessionConfig(
        method, name, made_with=f"the profile of {method.name}", tuner=_tuner(method, shared), **shared
    )


def _tuner(method: Method, shared: Mapping[str, Any]) -> Tuner | None:
    """The tuner of one denoiser, which chooses the method of each run; None where all runs have the same.

    Raises:
        DcacheError: an option of the engine does not go with plans.
    """
    if method.aim is None:
        return None
    if shared["budget"] is not None or shared["lowering"] != "auto":
        raise DcacheError(
            f"{method.describe()} plans for two anchors at full precision, which a memory limit would lower, "
            "and for the usual lowering: leave max_cache_bytes= and lowering= out, or use another method"
        )
    from dcache.observation.tuning.tuner import Tuner

    return Tuner(method.aim)
