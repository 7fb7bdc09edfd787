"""The sampler tap: identity of runs and evaluations from the one object that knows them.

`set_timesteps` opens a run, each `step` ends one evaluation, `maybe_free_model_hooks` of the pipeline closes
the run. Timesteps and call counts are never trusted: they repeat, rise, run the other way or come per token.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import get_ident
from typing import Any

import torch

from dcache.identity.run import Run
from dcache.intercept.method import MethodIntercept, listener_on, tap_on

_activity = itertools.count(1)


class Listener:
    """Who watches a sampler; every method may be left as it is.

    Attributes:
        learns: whether it wants to see what the sampler is given.
    """

    learns = False

    def here(self) -> AbstractContextManager[None]:
        """What is entered around each of the following: it makes this thread's state the active one."""
        return nullcontext()

    def refuse_other_thread(self, sampler: Any, thread: int) -> None:
        """The sampler was last used in another thread, and is to begin a run in this one.

        Raises:
            DcacheError: its pipeline's call is under way in that thread.
        """

    def is_copied(self, memo: Mapping[int, Any]) -> bool:
        """Whether its pipeline is part of a deep copy under way, of which `memo` is the memory."""
        return False

    def before_run(self) -> None:
        """A run is about to open."""

    def timed(self, sampler: Any) -> None:
        """The sampler's `set_timesteps` was called; the run is about to open."""

    def stepped(self, mixed: torch.Tensor) -> None:
        """The sampler is given this model output."""

    def paused(self, run: Run) -> None:
        """An evaluation ended, in which another listener's denoiser may have been called instead."""

    def after_last(self, run: Run) -> bool:
        """The sampler made its last step; whether that is the end of the run."""
        return True


class SamplerIntercept:
    """Watches one sampler. Listeners keep it alive; the last one to leave takes it off.

    Attributes:
        run: the run under way or None.
        thread: identifier of the thread that opened the run.
        touched: when the sampler was last used, on a counter shared by all taps.
        teaches: whether a listener wants to see what the sampler is given.
        several: whether there may be more than one listener.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.run: Run | None = None
        self.thread = get_ident()
        self.touched = 0
        self.teaches = False
        self.several = False
        self._copied = False
        self.listeners: weakref.WeakSet[Listener] = weakref.WeakSet()
        self._taps = [
            MethodIntercept(sampler, "set_timesteps", self._set_timesteps),
            MethodIntercept(sampler, "step", self._step),
        ]
        for tap in self._taps:
            tap.install()

    def leave(self, listener: Listener) -> None:
        """Forget a listener; without any the sampler gets its own methods back."""
        self.listeners.discard(listener)
        if not self.listeners:
            self.run = None
            for tap in self._taps:
                tap.remove()

    def close(self) -> None:
        """The pipeline call is over."""
        self.run = None

    def open_from(self, sampler: Any) -> Run:
        """Open a run from what a sampler says of itself now."""
        config = getattr(sampler, "config", {})
        sigmas = _numbers(getattr(sampler, "sigmas", None))
        alphas = getattr(sampler, "alphas_cumprod", None)
        timesteps = _numbers(getattr(sampler, "timesteps", None))
        if len(timesteps) > 1 and max(timesteps) <= 1.0 and timesteps[-1] == 0.0:
            # On a scale from 1 to 0 the last entry is the clean picture, which nobody denoises.
            timesteps = timesteps[:-1]
        if len(sigmas) < len(timesteps):
            sigmas = []
        flow = bool(
            config.get("use_flow_sigmas")
            or str(config.get("prediction_type", "")).startswith("flow")
            or (alphas is None and sigmas and max(sigmas) <= 1.0)
        )
        self.run = Run(
            timesteps=timesteps,
            sigmas=sigmas,
            alphas_cumprod=_numbers(alphas) if not sigmas else [],
            flow=flow,
            sampler=type(sampler).__name__,
        )
        self.touched, self.thread = next(_activity), get_ident()
        return self.run

    def begin_index(self) -> int | None:
        """Where the sampler was told to begin, if it was."""
        begin = getattr(self.sampler, "begin_index", None)
        return begin if isinstance(begin, int) else None

    def _set_timesteps(self, original: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        if self.run is not None and self.thread != get_ident():
            for listener in list(self.listeners):
                listener.refuse_other_thread(self.sampler, self.thread)
        for listener in list(self.listeners):
            with listener.here():
                listener.before_run()
        result = original(*args, **kwargs)
        for listener in list(self.listeners):
            with listener.here():
                listener.timed(owner)
        if self.listeners:
            copied = owner is not self.sampler
            several = copied and self._copied and self.run is not None and not self.run.started
            run, self._copied = self.open_from(owner), copied
            if several:
                # Diffusion forcing: every frame walks on a copy of its own; no table tells where the run is.
                run.timesteps = run.sigmas = run.alphas_cumprod = ()
        return result

    def _step(self, original: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        if self.teaches:
            mixed = args[0] if args else kwargs.get("model_output")
            for listener in list(self.listeners):
                if isinstance(mixed, torch.Tensor):
                    with listener.here():
                        listener.stepped(mixed)
        result = original(*args, **kwargs)
        run = self.run
        if run is not None and run.calls:
            run.calls = 0
            run.index += 1
            self.touched = next(_activity)
            if self.several:
                for listener in list(self.listeners):
                    with listener.here():
                        listener.paused(run)
            if run.count is not None and run.index >= run.count:
                ended = []
                for listener in list(self.listeners):
                    with listener.here():
                        ended.append(listener.after_last(run))
                if ended and all(ended):
                    self.close()
        return result

    def follows_copies(self, memo: Mapping[int, Any]) -> bool:
        """Whether a deep copy of the sampler is watched too, as LTX2's in a run; a copied pipe's is not."""
        return not any(listener.is_copied(memo) for listener in self.listeners)

    def __deepcopy__(self, memo: dict[int, Any]) -> SamplerIntercept:
        """A copied sampler tells the same tap."""
        return self


def tap_of(sampler: Any) -> SamplerIntercept | None:
    """The tap on this sampler, if there is one."""
    owner = listener_on(sampler, "step")
    return (
        owner
        if isinstance(owner, SamplerIntercept) and owner.listeners and owner.sampler is sampler
        else None
    )


def tap(sampler: Any, listener: Listener) -> SamplerIntercept:
    """Watch a sampler on behalf of `listener` ."""
    found = tap_of(sampler)
    if found is None:
        # What a copied sampler brought along listens for the original's pipeline.
        for name in ("set_timesteps", "step"):
            if tap_on(sampler, name) is not None:
                delattr(sampler, name)
        found = SamplerIntercept(sampler)
    found.listeners.add(listener)
    found.teaches = found.teaches or listener.learns
    found.several = len(found.listeners) > 1
    return found


def is_sampler(thing: Any) -> bool:
    """Whether this looks like a sampler: it has `set_timesteps` and `step`."""
    return callable(getattr(thing, "set_timesteps", None)) and callable(getattr(thing, "step", None))


def _numbers(values: Any) -> Sequence[float]:
    if values is None:
        return []
    if isinstance(values, torch.Tensor):
        return [float(v) for v in values.detach().flatten().tolist()]
    return [float(v) for v in values]
