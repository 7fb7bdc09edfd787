"""Which modules are denoisers, found by watching: those called between two sampler steps, run after run.

Most denoisers take an argument that is named like a timestep, and are known before the first run. Where no
module of a pipeline does, all of them are watched from `set_timesteps` on; one that is called in two
evaluations running is a denoiser, and caching begins with that second call. Later runs let their first
evaluation go by as well, so that all runs of such a pipeline are alike.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from dcache.errors import DcacheWarning
from dcache.identity.listener import Listener
from dcache.identity.run import Run
from dcache.identity.sampler import SamplerIntercept, is_sampler, tap
from dcache.intercept.module_call import ModuleIntercept


class CandidateCall(ModuleIntercept):
    """A module that may be a denoiser."""

    name = "detect"

    def __init__(self, module: nn.Module, name: str, scout: DenoiserDetector) -> None:
        super().__init__(module)
        self.component = name
        self.scout = scout

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Note the call; from a denoiser's second evaluation on the session stands here."""
        if self.scout.is_denoiser(self):
            return self.module(*args, **kwargs)
        return self.inner(*args, **kwargs)


class DenoiserDetector(Listener):
    """Watches the modules of one pipeline until a run has shown which of them are denoisers.

    Args:
        pipe: the pipeline, whose sampler is `pipe.scheduler`.
        modules: name -> module of everything that may be one.
        on_found: puts a session on the module of this name, once it is known.
        watch: the watch on the pipeline.
    """

    def __init__(
        self,
        pipe: Any,
        modules: Mapping[str, nn.Module],
        on_found: Callable[[str, nn.Module], None],
        watch: Any = None,
    ) -> None:
        self.pipe = weakref.ref(pipe)
        self.on_found = on_found
        self.watch = watch
        self.found: list[str] = []
        self.last: dict[str, int] = {}
        self.watched = [CandidateCall(module, name, self) for name, module in modules.items()]
        for watched in self.watched:
            watched.install()
        self.tap: SamplerIntercept = tap(pipe.scheduler, self)

    def is_copied(self, memo: Mapping[int, Any]) -> bool:
        """Whether the pipeline is part of a deep copy under way."""
        return id(self.pipe()) in memo

    def watch_of(self, pipe: Any) -> Any:
        """The watch on the pipeline, if it is this one."""
        return self.watch if self.pipe() is pipe else None

    def before_run(self) -> None:
        """A run opens: what the last one showed is enough, or the watch begins again."""
        self.last = {}
        if self.found:
            self.remove()

    def after_last(self, run: Run) -> bool:
        """The sampler made its last step: the pipeline's call goes on."""
        return False

    def end(self) -> None:
        """The pipeline's call is over."""
        if self.found:
            self.remove()
        elif self.last or self.tap.run is not None:
            pipe = type(self.pipe()).__name__
            names = ", ".join(w.component for w in self.watched)
            warnings.warn(
                f"no denoiser found in {pipe}: none of its modules ({names}) takes a timestep by name, and "
                "none was called in two evaluations running, so nothing was cached. Use more than one step, "
                "or enable caching on the denoiser module itself.",
                DcacheWarning,
                stacklevel=2,
            )
        self.last = {}

    def remove(self) -> None:
        """Take the watch off all modules and the sampler."""
        for watched in self.watched:
            watched.remove()
        self.tap.leave(self)

    def is_denoiser(self, watched: CandidateCall) -> bool:
        """Note a call; True, with a session on the module, if it was called in the evaluation before too."""
        self._follow_sampler()
        run = self.tap.run
        if run is None:
            return False
        if not self.found:
            # The sampler ends an evaluation only after such a call; later the sessions count their own.
            run.calls += 1
        before = self.last.get(watched.component)
        self.last[watched.component] = run.index
        if before is None or before != run.index - 1:
            return False
        run.calls -= not self.found
        watched.remove()
        self.found.append(watched.component)
        self.on_found(watched.component, watched.module)
        return True

    def _follow_sampler(self) -> None:
        sampler = getattr(self.pipe(), "scheduler", None)
        if sampler is not self.tap.sampler and is_sampler(sampler):
            self.tap.leave(self)
            self.tap = tap(sampler, self)
            if self.tap.run is None:
                self.tap.open_from(sampler)
