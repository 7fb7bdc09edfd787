"""The interface of those who watch a sampler."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from dcache.identity.run import Run


class Listener:
    """Who watches a sampler; every method may be left as it is.

    Attributes:
        learns: whether it wants to see what the sampler is given.
    """

    learns = False

    def here(self) -> AbstractContextManager[None]:
        """A context around each of the following calls, in which this thread's state is the active one."""
        return nullcontext()

    def refuse_other_thread(self, sampler: Any) -> None:
        """The sampler is to begin a run in this thread; another one may have used it last.

        Raises:
            DcacheError: its pipeline's call is under way in that thread.
        """

    def is_copied(self, memo: Mapping[int, Any]) -> bool:
        """Whether the listener's pipeline is part of a deep copy under way, whose memory is `memo`."""
        return False

    def watch_of(self, pipe: Any) -> Any:
        """The watch on a pipeline, where it can be reached from here only; else None."""
        return None

    def before_run(self) -> None:
        """A run is about to open."""

    def timed(self, sampler: Any) -> None:
        """The sampler's `set_timesteps` was called; the run is about to open."""

    def stepped(self, mixed: torch.Tensor) -> None:
        """The sampler is given this model output."""

    def orphaned(self) -> None:
        """The sampler of a loop that belonged to no pipeline is gone."""

    def unsteady(self, name: str) -> None:
        """An argument of this position or name changes in every evaluation."""

    def joined(self, run: Run) -> None:
        """A run turned out to be the one before it, gone on."""

    def paused(self, run: Run) -> None:
        """An evaluation ended, in which another listener's denoiser may have been called instead."""

    def after_last(self, run: Run) -> bool:
        """The sampler made its last step; whether that is the end of the run."""
        return True
