"""`memory_estimate`: bytes that a method's caches will hold, measured in one evaluation."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dcache import methods
from dcache.api import ENGINE_OPTIONS, Offload, enabled, step
from dcache.cache.history import tensors_of
from dcache.engine.call import Call
from dcache.engine.observe import Observer, observe
from dcache.engine.pipeline import sessions_of
from dcache.engine.session import Session
from dcache.errors import DcacheError, DcacheWarning
from dcache.identity.denoisers import chunk_method_names, denoisers, is_policy
from dcache.identity.listener import Listener
from dcache.identity.sampler import is_sampler, tap
from dcache.methods.registry import get
from dcache.methods.resolve import default_for, preset_called, resolve
from dcache.util.options import options_of
from dcache.util.text import first_sentence

if TYPE_CHECKING:
    from dcache.time_memo.memo import TimeMemo

# Guidance rows are inferred in the first evaluation and cached from the second on.
_GUIDANCE_LEARNED = 2
# Warnings of a run's length, and of a run that predicted nothing.
_OF_LENGTH = ".*(depends on the number of evaluations of|which nothing said before|nothing was predicted in)"


def memory_estimate(
    pipe_or_module: Any, method: Any = None, *, memo: Offload | None = None, **arguments: Any
) -> int:
    """Bytes that a method's caches will hold, measured by running one evaluation, with a memo two.

    >>> import dcache
    >>> from dcache.demo.pipeline import call_options, load_pipeline
    >>> call = {"prompt": "a red circle", **call_options()}
    >>> dcache.memory_estimate(load_pipeline(), "newton", order=2, **call)
    245760

    Args:
        pipe_or_module: as for `enable`.
        method: as for `enable`.
        memo: as for `enable`; a memo that was made already counts too.
        **arguments: options of the preset (if `method` is a name or None) and arguments of the pipeline's or
            module's call, of a policy those of its method that makes a chunk; it is stopped after one
            evaluation.

    Returns:
        Bytes of the full caches: order + 1 anchors for each site and branch, the tensors of the change
        indicators, and a memo's tables with an entry for each timestep of the run. Of a bare module's run
        nothing but the method's steps is known; without them, tables count for one timestep.

    Raises:
        DcacheError: an argument belongs to neither preset nor call, or to both; one that the call needs is
            missing; the pipeline refuses the call; or the method does not fit.
    """
    options, call = _split(pipe_or_module, method, arguments)
    modules = denoisers(pipe_or_module)
    if not modules:
        raise DcacheError(
            f"only a run can tell which module of {type(pipe_or_module).__name__} is the denoiser: pass that "
            "module instead of the pipeline"
        )
    chosen = resolve(method, options, target=pipe_or_module)
    with enabled(pipe_or_module, chosen, memo=memo), torch.no_grad():
        sessions = list(sessions_of(pipe_or_module).values())
        if _chunk_method(pipe_or_module):
            return _of_policy(pipe_or_module, sessions, call)
        if isinstance(pipe_or_module, nn.Module):
            # Two steps announced, one made: otherwise the engine would warn that the run predicted nothing.
            step(pipe_or_module, 0, sigma=1.0, timestep=1.0, steps=sessions[0].method.steps or 2)
            pipe_or_module(**call)
            times = sessions[0].method.steps or 1
            return sum(_full_bytes(session, times) for session in sessions)
        return _of_pipeline(pipe_or_module, sessions, call)


class _EnoughError(Exception):
    """Raised to stop a pipeline's or policy's call after one evaluation of every denoiser."""


class _PolicyStop(Observer):
    """Stops a policy's chunk in the second evaluation: the first may have several branches.

    Args:
        session: caching on its denoiser.
    """

    sees_outputs = False

    def __init__(self, session: Session) -> None:
        self.session, self.full = session, 0

    def on_call(self, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Before a call: stop where the evaluations before it were enough."""
        if call.index and _is_ready(self.session):
            raise _EnoughError

    def around_call(self, denoise: Callable[[], Any]) -> Any:
        """After a call: its histories, which are freed with the chunk's last evaluation."""
        output = denoise()
        run = self.session.state.run
        if run is not None and self.session.state.branches:
            self.full = _full_bytes(self.session, run.count or 1)
        return output


class _Stop(Listener):
    """Stops a pipeline's call once every denoiser was called; denoisers may take turns (Wan 2.2)."""

    learns = True

    def __init__(self, sessions: list[Session], sampler: Any) -> None:
        self.sessions, self.sampler = sessions, sampler
        self.full: dict[int, int] = {}

    @property
    def times(self) -> int:
        """Different timesteps of the run, 1 where the sampler has no table of them."""
        table = getattr(self.sampler, "timesteps", None)
        return len(set(torch.as_tensor(table).tolist())) if table is not None else 1

    def stepped(self, mixed: torch.Tensor) -> None:
        """Before a sampler step: record denoisers that are ready; stop when all are."""
        for i, session in enumerate(self.sessions):
            if i not in self.full and _is_ready(session):
                self.full[i] = _full_bytes(session, self.times)
        if len(self.full) == len(self.sessions):
            raise _EnoughError


def _of_policy(policy: Any, sessions: list[Session], call: Mapping[str, Any]) -> int:
    stops = [_PolicyStop(session) for session in sessions]
    with ExitStack() as stack:
        for stop in stops:
            stack.enter_context(observe(stop.session.module, stop))
        # The run is stopped here: what is said of its length means nothing.
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", _OF_LENGTH, DcacheWarning)
        with suppress(_EnoughError):
            getattr(policy, _chunk_method(policy))(**call)
    return sum(stop.full for stop in stops)


def _of_pipeline(pipe: Any, sessions: list[Session], call: Mapping[str, Any]) -> int:
    sampler = getattr(pipe, "scheduler", None)
    if not is_sampler(sampler):
        names = ", ".join(session.component for session in sessions)
        raise DcacheError(
            f"{type(pipe).__name__} has no `scheduler` that dcache can stop after one evaluation: pass its "
            f"denoiser instead ({names})"
        )
    stop = _Stop(sessions, sampler)
    intercept = tap(sampler, stop)
    try:
        with suppress(_EnoughError):
            pipe(**call)
    except (TypeError, ValueError) as error:
        given = ", ".join(call) or "no argument"
        raise DcacheError(
            f"{type(pipe).__name__} refused the call with {given} ({type(error).__name__}: "
            f"{first_sentence(error)}): memory_estimate begins a call of the pipeline, so give all arguments "
            "that yours has, as in dcache.memory_estimate(pipe, prompt=..., height=..., width=...)"
        ) from error
    finally:
        intercept.leave(stop)
        # The stopped call did not reach its own clean-up of offloaded modules.
        free = getattr(pipe, "maybe_free_model_hooks", None)
        if free is not None:
            free()
    return sum(stop.full.values())


def _split(target: Any, method: Any, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the arguments into the preset's options and the arguments of the call."""
    preset = _preset_of(method, target)
    name = "" if preset is None else preset.__name__
    known_options = set() if preset is None else set(options_of(preset))
    parameters = inspect.signature(_callee(target)).parameters
    named = {name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD and name != "self"}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    callee = f"{type(target).__name__}'s {_chunk_method(target) or 'call'}"
    both = sorted(known_options & named & set(arguments))
    if both:
        raise DcacheError(
            f"{', '.join(both)} may be an option of {name} or an argument of {callee}. Pass the method as an "
            f"object, dcache.methods.{name}({both[0]}=...): all keyword arguments are then the call's"
        )
    unknown = [argument for argument in arguments if argument not in known_options | named]
    if takes_any and unknown:
        # The call has **kwargs and takes any name: refuse those that are, or resemble, an option of dcache.
        every = (option for name in methods.available() for option in options_of(get(name)))
        options = {*known_options, *ENGINE_OPTIONS, *every}
        unknown = [u for u in unknown if difflib.get_close_matches(u, options, n=1, cutoff=0.85)]
    if unknown:
        known = "" if preset is None else f"{name} takes {', '.join(sorted(known_options)) or 'no options'}; "
        raise DcacheError(
            f"unknown argument(s) {', '.join(unknown)}: {known}{callee} takes {', '.join(sorted(named))}"
        )
    chosen = {name: value for name, value in arguments.items() if name in known_options}
    missing = [n for n, p in parameters.items() if n in named and n not in arguments and _is_required(p)]
    if missing:
        example = ", ".join(f"{name}=..." for name in missing)
        raise DcacheError(
            f"memory_estimate runs an evaluation, and {callee} needs {', '.join(missing)}: give all by name, "
            f"as in dcache.memory_estimate({type(target).__name__.lower()}, {example})"
        )
    return chosen, {name: value for name, value in arguments.items() if name not in known_options}


def _is_required(parameter: inspect.Parameter) -> bool:
    """Whether a call without this argument fails."""
    return parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL


def _chunk_method(target: Any) -> str:
    """The name of a policy's method that makes a chunk of actions; "" where the target itself is called."""
    return next(iter(chunk_method_names(target)), "") if is_policy(target) else ""


def _callee(target: Any) -> Callable[..., Any]:
    """The function that takes the arguments of a target's call."""
    name = _chunk_method(target)
    if name:
        return getattr(type(target), name, None) or getattr(target, name)
    return target.forward if isinstance(target, nn.Module) else type(target).__call__


def _preset_of(method: Any, target: Any) -> Callable[..., Any] | None:
    """The preset whose options may be among the arguments; None if `method` is a finished Method."""
    if method is None:
        return methods.find(default_for(target))
    if isinstance(method, str):
        name = preset_called(method) or preset_called(method.partition(":")[0])
        return None if name is None else methods.find(name)
    return method if callable(method) and not isinstance(method, type) else None


def _is_ready(session: Session) -> bool:
    """Whether every history has an anchor; with guidance, this is so only after its rows were inferred.

    A memo keeps nothing of its first call, so two evaluations show all branches.
    """
    guidance, state = session.binding.guidance, session.state
    if _memo_of(session) is not None and (state.run is None or state.run.index < 1):
        return False
    if guidance is None or guidance.useless or state.run is None or state.run.index >= _GUIDANCE_LEARNED:
        return bool(state.branches)
    return any(branch.history(guidance.key).taus for branch in state.branches.values())


def _full_bytes(session: Session, times: int) -> int:
    """Bytes of the session's caches once all histories are full; each has at least one anchor now.

    Args:
        session: caching on one denoiser.
        times: different timesteps of the run.
    """
    branches = session.state.branches.values()
    more = session.method.predictor.forecasts
    anchors = [(h.limit + more, h.leaves[-1]) for b in branches for h in b.histories.values() if h.leaves]
    probes = [t for b in branches if b.indicator is not None for t in b.indicator.capacity()]
    cached = sum(n * t.untyped_storage().nbytes() for n, leaves in anchors for t in tensors_of(leaves))
    known = _memo_of(session)
    tables = 0 if known is None else known.room.full_bytes(times)
    return cached + tables + sum(t.untyped_storage().nbytes() for t in probes)


def _memo_of(session: Session) -> TimeMemo | None:
    """The memo of a session's denoiser, None without one."""
    from dcache.time_memo.memo import memo_of

    return memo_of(session.module)
