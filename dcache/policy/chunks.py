"""`Chunks`: makes the chunks of one control loop, each a run of its own."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import numpy as np
import torch

import dcache
from dcache import time_memo
from dcache.engine.enabled import end_failed
from dcache.errors import DcacheError, DcacheWarning
from dcache.identity.denoisers import CHUNK_METHODS, chunk_method_names
from dcache.policy.jumps import Jumps
from dcache.policy.latency import Counts
from dcache.policy.warm import Start, WarmStart, moved_on

_QUEUES = (
    "dcache: the first chunk failed. Where only the policy's select_action stores observations (lerobot's "
    "DiffusionPolicy), Loop takes a function of several observations and observe=History(n): docs/policy.md."
)


class Chunks:
    """Makes chunks of actions, and says how long they took.

    Args:
        policy: observation -> chunk, or an object with a method that makes one.
        denoiser: what caching is enabled on; None is `policy` or its attribute `denoiser`.
        warm_start: None begins every chunk with noise.
        max_latency: seconds that a chunk may take, None is without limit.
        jumps: tells whether an observation jumped; None takes every one for no jump.
        longest: chunks in a row that may be predicted in part, None is without limit.
        fixed: no chunk is computed in full.
        memo: keep what the denoiser computes from the observation alone, or from the timestep alone.

    Raises:
        DcacheError: the policy has no method that makes a chunk, or none that takes a warm start.
    """

    def __init__(
        self,
        policy: Any,
        denoiser: Any = None,
        *,
        warm_start: WarmStart | None = None,
        max_latency: float | None = None,
        jumps: Jumps | None = None,
        longest: int | None = None,
        fixed: bool = False,
        memo: bool = False,
    ) -> None:
        self.method = chunk_method(policy)
        self.denoiser = denoiser_of(policy, denoiser)
        self.warm_start, self.max_latency, self.jumps = warm_start, max_latency, jumps
        self.longest, self.fixed = longest, fixed
        self.counts = Counts()
        self.said: set[str] = set()
        # Whether a chunk began warm -> site events that it computed.
        self._costs: dict[bool, int] = {}
        if warm_start is not None and "start" not in inspect.signature(self.method).parameters:
            raise DcacheError(
                "warm_start needs a policy that takes start=, a dcache.policy.Start, and "
                f"{name_of(self.method)} takes none: use dcache.policy.Sampled, or leave warm_start out"
            )
        self.memo = memo
        if memo:
            time_memo.memo(self.denoiser, text="alone")
        self.begin()

    def close(self) -> None:
        """Take the memo off."""
        if self.memo:
            self.memo = False
            time_memo.forget(self.denoiser)

    def memo_report(self) -> time_memo.MemoReport | None:
        """What the memo holds and has answered; None without one."""
        return time_memo.memo_report(self.denoiser) if self.memo else None

    def begin(self) -> None:
        """An episode begins."""
        self._cached = self._warm = 0
        self.reset(False)
        if self.jumps is not None:
            self.jumps.forget()

    def reset(self, full: bool) -> bool:
        """End the denoiser's run, the next one in full if asked for; False where caching is not enabled."""
        try:
            dcache.reset(self.denoiser, full)
        except DcacheError:
            return False
        return True

    def stats(self) -> dcache.Stats | None:
        """Of the denoiser's last run; None where caching is not enabled."""
        try:
            return dcache.stats(self.denoiser)
        except DcacheError:
            return None

    @torch.no_grad()
    def make(self, observation: Any, previous: torch.Tensor | None = None, shift: int = 0) -> torch.Tensor:
        """A chunk, (horizon, numbers of an action) or (B, horizon, numbers of an action).

        Args:
            observation: what the policy takes.
            previous: the last chunk of the episode, None where this is the first.
            shift: actions of it that were executed when the observation was made.
        """
        rows = len(previous) if previous is not None and previous.ndim == 3 else 1
        jumped = self.jumps is not None and self.jumps.see(observation, rows) and previous is not None
        start = None
        if previous is not None and self.warm_start is not None and not jumped:
            warm = self._warm < self.warm_start.most and shift < previous.shape[-2]
            start = Start(moved_on(previous, shift), self.warm_start.level) if warm else None
        full = not self.fixed and (jumped or (self.longest is not None and self._cached >= self.longest))
        cached = self.reset(full)
        began = perf_counter()
        try:
            chunk = self.method(observation) if start is None else self.method(observation, start=start)
        except BaseException as error:
            if cached:
                end_failed(self.denoiser)
            if not self.counts.chunks and callable(getattr(self.denoiser, "select_action", None)):
                error.add_note(_QUEUES)
            raise
        finally:
            self.reset(False)
        self._count(perf_counter() - began, jumped, full and cached, start is not None)
        checked = _checked(chunk, self.method)
        # Only now: a chunk that failed leaves its jump to the next one.
        if self.jumps is not None:
            self.jumps.keep()
        return checked

    def _count(self, seconds: float, jumped: bool, full: bool, warm: bool) -> None:
        counts = self.counts
        if counts.add(seconds, self.max_latency):
            self._say(
                "late",
                f"a chunk took {1000 * seconds:.0f} ms, and max_latency is "
                f"{1000 * (self.max_latency or 0):.0f} ms: walk fewer noise levels, compute fewer of them, "
                "or begin warm (docs/policy.md)",
            )
        counts.jumps += jumped
        counts.full += full
        counts.warm += warm
        self._cached = 0 if full else self._cached + 1
        self._warm = self._warm + 1 if warm else 0
        stats = self.stats() if self.fixed else None
        if stats is not None and self._costs.setdefault(warm, stats.computed) != stats.computed:
            self._say(
                "cost",
                f"fixed=True expects chunks of one cost, and this one computed {stats.computed} site events "
                f"where the first computed {self._costs[warm]}: choose a method without a threshold",
            )

    def _say(self, kind: str, text: str) -> None:
        """Warn once of each kind, whatever the numbers."""
        if kind not in self.said:
            self.said.add(kind)
            warnings.warn(text, DcacheWarning, stacklevel=4)


def chunk_method(policy: Any) -> Callable[..., Any]:
    """The function that makes a chunk.

    Raises:
        DcacheError: there is none.
    """
    named = chunk_method_names(policy)
    if named:
        method: Callable[..., Any] = getattr(policy, named[0])
        return method
    # A policy's call as a module is a loss.
    if callable(policy) and not isinstance(policy, torch.nn.Module):
        return policy
    names = (name for name in CHUNK_METHODS if name != "select_action")
    raise DcacheError(
        f"{type(policy).__name__} has no method that makes a chunk (looked for {', '.join(names)}): give a "
        "function of an observation, as in Loop(lambda observation: ..., denoiser=policy)"
    )


def denoiser_of(policy: Any, denoiser: Any = None) -> Any:
    """What caching is enabled on: as given, else the policy's attribute `denoiser`, else the policy."""
    return getattr(policy, "denoiser", policy) if denoiser is None else denoiser


def name_of(function: Any) -> str:
    """The name of a function or of an object's class."""
    return getattr(function, "__qualname__", type(function).__name__)


def _checked(chunk: Any, method: Any) -> torch.Tensor:
    try:
        tensor = chunk if isinstance(chunk, torch.Tensor) else torch.as_tensor(np.asarray(chunk))
    except (TypeError, ValueError, RuntimeError) as error:
        parts = f" with {', '.join(map(str, chunk))}" if isinstance(chunk, Mapping) else ""
        raise DcacheError(
            f"a chunk must be a tensor or an array, got {type(chunk).__name__}{parts} from "
            f"{name_of(method)}: give a function that takes the actions out of it, as in "
            "Loop(lambda observation: policy.predict_action(observation)['action'], denoiser=policy)"
        ) from error
    if tensor.ndim not in (2, 3) or not tensor.shape[-2]:
        raise DcacheError(
            "a chunk must be (horizon, numbers of an action) or (B, horizon, numbers of an action), got "
            f"shape {tuple(tensor.shape)}"
        )
    if not bool(tensor.isfinite().all()):
        raise DcacheError("a chunk has NaN or infinity: it must not reach the robot")
    return tensor
