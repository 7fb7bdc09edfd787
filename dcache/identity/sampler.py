"""The sampler tap: identity of runs and evaluations from the one object that knows them.

`set_timesteps` opens a run, each `step` ends one evaluation, `maybe_free_model_hooks` of the pipeline closes
the run. Timesteps and call counts are never trusted: they repeat, rise, run the other way or come per token.

Some pipelines step once for each view of a large picture and set the sampler's state back in between
(MultiDiffusion). Where a sampler stands is read from its own index, and from a number that is kept among
its attributes, so that it is saved and set back with them. Timesteps would not tell, for PNDM repeats some.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Mapping
from threading import Lock, get_ident
from typing import Any

import torch

from dcache.identity.listener import Listener
from dcache.identity.run import Run
from dcache.identity.timestep import number
from dcache.identity.timetable import run_from
from dcache.intercept.method import MethodIntercept, listener_on, tap_on

_activity = itertools.count(1)
_CLAIM = Lock()
# An attribute of the sampler: evaluations that it ended in the run under way.
ENDED = "_dcache_ended"
# The sampler's own index, by the names that diffusers gives it.
_INDICES = ("_step_index", "counter")


class SamplerIntercept:
    """Watches one sampler. Listeners keep it alive; the last one to leave takes it off.

    Attributes:
        run: the run under way or None.
        thread: identifier of the thread that opened the run.
        opening: whether that thread is opening it.
        touched: when the sampler was last used, on a counter shared by all taps.
        teaches: whether a listener wants to see what the sampler is given.
        several: whether there may be more than one listener.
        ended: `ENDED` as it was left by the last step.
        index_name: the attribute that holds the sampler's own index, "" where it has none.
        own_index: that index behind the last step, None before one.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.run: Run | None = None
        self.thread = get_ident()
        self.opening = False
        self.touched = 0
        self.teaches = False
        self.several = False
        self.ended = 0
        self.own_index: int | None = None
        self._own_before: int | None = None
        self.index_name = _index_name(sampler)
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
            vars(self.sampler).pop(ENDED, None)
            for tap in self._taps:
                tap.remove()

    @property
    def in_use(self) -> bool:
        """Whether a run is under way, or about to be."""
        return self.opening or self.run is not None

    def close(self) -> None:
        """The pipeline call is over."""
        self.run = None

    def open_from(self, sampler: Any) -> Run:
        """Open a run from what a sampler says of itself now."""
        self.run = run_from(sampler)
        self.touched, self.thread = next(_activity), get_ident()
        self.index_name = _index_name(self.sampler)
        self.ended = vars(self.sampler)[ENDED] = 0
        self.own_index = self._own_before = None
        return self.run

    def follow(self, run: Run) -> None:
        """A denoiser call begins, and the sampler does not stand where its last step left it: note why."""
        state = vars(self.sampler)
        ended, index = state.get(ENDED, 0), state.get(self.index_name)
        if ended != self.ended:
            run.set_back(self.ended - ended)
        elif self.own_index is not None and isinstance(index, int) and index != self.own_index:
            if index == self._own_before:
                run.set_back(1)
            else:
                run.jump(index - self.own_index)
        self.ended = ended
        if self.own_index is not None:
            self.own_index = index if isinstance(index, int) else None

    def begin_index(self) -> int | None:
        """The entry of its table at which the sampler began or will begin, None where it does not know."""
        index = getattr(self.sampler, "_step_index", None)
        if (
            isinstance(index, int)
            and self.run is not None
            and self.run.index <= index < len(self.run.timesteps)
        ):
            return index - self.run.index
        begin = getattr(self.sampler, "begin_index", None)
        return begin if isinstance(begin, int) else None

    def _set_timesteps(self, original: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        # Two threads may come at once: one of them claims the sampler, and the other is refused.
        with _CLAIM:
            for listener in list(self.listeners):
                listener.refuse_other_thread(self.sampler)
            self.opening, self.thread = True, get_ident()
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
        # Where this is not reached, the thread's frames still tell that the sampler is free.
        self.opening = False
        return result

    def _step(self, original: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        if self.teaches:
            mixed = args[0] if args else kwargs.get("model_output")
            for listener in list(self.listeners):
                if isinstance(mixed, torch.Tensor):
                    with listener.here():
                        listener.stepped(mixed)
        state = vars(self.sampler)
        before = state.get(self.index_name)
        result = original(*args, **kwargs)
        run = self.run
        if run is None or not run.calls:
            return result
        if not run.located:
            run.begin_at(number(args[1] if len(args) > 1 else kwargs.get("timestep")))
        run.calls = 0
        run.index += 1
        self.touched = next(_activity)
        if owner is self.sampler:
            index = state.get(self.index_name)
            # Without an index before it, it looked that up within the step.
            before = index - 1 if before is None and isinstance(index, int) else before
            self.own_index, self._own_before = (index, before) if isinstance(index, int) else (None, None)
            self.ended = state[ENDED] = state.get(ENDED, 0) + 1
        if self.several:
            for listener in list(self.listeners):
                with listener.here():
                    listener.paused(run)
        # Where there are views, the last of them ends the run.
        if run.count is not None and run.index >= run.count and run.view >= run.views:
            ended = []
            for listener in list(self.listeners):
                with listener.here():
                    ended.append(listener.after_last(run))
            if ended and all(ended):
                self.close()
        return result

    def unseen_step(self, run: Run, timestep: float) -> bool:
        """Take a step into account that was looked up before the sampler was intercepted.

        In `x = sampler.step(model(x, t), t, x)` Python looks `step` up first; the sampler is found only in
        the model's call. A loop may also have looked it up once for all (`step = sampler.step`). The
        sampler's own index tells, or else the table's next timestep.

        Args:
            run: the run under way.
            timestep: what the denoiser is called with now.

        Returns:
            Whether such a step ended the evaluation under way.
        """
        index = vars(self.sampler).get(self.index_name)
        following = run.start + run.index + 1
        moved = isinstance(index, int) and (self.own_index is None or index > self.own_index)
        if not (moved if self.index_name else list(run.timesteps[following : following + 1]) == [timestep]):
            return False
        run.calls = 0
        run.index += 1
        self.touched = next(_activity)
        self.own_index, self._own_before = (index, index - 1) if isinstance(index, int) else (None, None)
        self.ended = vars(self.sampler)[ENDED] = self.ended + 1
        return True

    def follows_copies(self, memo: Mapping[int, Any]) -> bool:
        """Whether a deep copy of the sampler is watched too, as LTX2's in a run; a copied pipe's is not."""
        return not any(listener.is_copied(memo) for listener in self.listeners)

    def __deepcopy__(self, memo: dict[int, Any]) -> SamplerIntercept:
        """A copied sampler has the same intercept."""
        return self


def tap_of(sampler: Any) -> SamplerIntercept | None:
    """The tap on this sampler, if there is one."""
    owner = listener_on(sampler, "step")
    watches = isinstance(owner, SamplerIntercept) and owner.listeners and owner.sampler is sampler
    return owner if watches else None


def tap(sampler: Any, listener: Listener) -> SamplerIntercept:
    """Watch a sampler on behalf of `listener`."""
    intercept = tap_of(sampler)
    if intercept is None:
        # What a copied sampler brought along listens for the original's pipeline.
        for name in ("set_timesteps", "step"):
            if tap_on(sampler, name) is not None:
                delattr(sampler, name)
        intercept = SamplerIntercept(sampler)
    intercept.listeners.add(listener)
    intercept.teaches = intercept.teaches or listener.learns
    intercept.several = len(intercept.listeners) > 1
    return intercept


def _index_name(sampler: Any) -> str:
    return next((name for name in _INDICES if name in vars(sampler)), "")


def is_sampler(thing: Any) -> bool:
    """Whether this looks like a sampler: it has `set_timesteps` and `step`."""
    return callable(getattr(thing, "set_timesteps", None)) and callable(getattr(thing, "step", None))
