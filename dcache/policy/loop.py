"""`Loop`: a robot's control loop around a diffusion policy."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any, Self

import torch

from dcache.policy.chunks import Chunks
from dcache.policy.jumps import Jumps, copied
from dcache.policy.latency import LoopStats
from dcache.policy.warm import WarmStart
from dcache.util.checks import check_number, check_whole

# Share of an observation's length: docs/policy.md says how to choose it.
JUMP = 0.5
LONGEST = 50


@dataclass
class _Chunk:
    """A chunk that is being executed.

    Attributes:
        actions: (horizon, numbers of an action) or (B, horizon, numbers of an action).
        done: actions that were executed or lie in the past.
        until: where its execution ends.
    """

    actions: torch.Tensor
    done: int
    until: int


class Loop:
    """Takes an observation and gives the next action; makes a chunk of actions where it needs one.

    Every chunk is a run of its own: no features are carried from one observation to the next. A chunk whose
    observation jumped is computed in full, and so is one after `longest` others.

    >>> import torch
    >>> from dcache.policy import Loop
    >>> loop = Loop(lambda observation: torch.arange(4.0)[:, None] + observation, execute=2)
    >>> [float(loop.act(torch.tensor([10.0 * i]))) for i in range(4)]
    [0.0, 1.0, 20.0, 21.0]

    Args:
        policy: observation -> chunk, (horizon, size of an action) or (B, horizon, size of an action), or
            an object with such a method (`predict_action_chunk`); with `warm_start` it takes `start=` too.
        warm_start: a `WarmStart`, or its level; None begins every chunk with noise.
        max_latency: seconds that a chunk may take: later ones are counted, and said once.
        execute: actions of a chunk that are executed; None is all of them.
        asynchronous: make the next chunk in a thread while this one is executed.
        ahead: actions before the end of a chunk at which the next one is begun; None is half of it.
        jump: an observation that changed by more than this share of its length jumped; None for no check.
        longest: chunks in a row that may be predicted in part; None is without limit.
        encode: observation -> vector, in which jumps are measured; None is all of its numbers.
        fixed: every chunk costs the same, so that the longest one is known: none is computed in full for a
            jump or for `longest`, and one that computes more or less than the first is said.
        denoiser: what caching is enabled on; None is `policy` or its attribute `denoiser`.
        observe: called with every observation, in the thread of `act`; the policy gets what it returns
            (`History`).
        memo: until the loop is closed, keep what the denoiser computes from the observation alone within a
            chunk (encoders, keys and values of its tokens), and what from the timestep alone; exact.

    Raises:
        DcacheError: an argument is out of range, or the policy cannot be called.
    """

    def __init__(  # noqa: PLR0913
        self,
        policy: Any,
        *,
        warm_start: WarmStart | float | None = None,
        max_latency: float | None = None,
        execute: int | None = None,
        asynchronous: bool = False,
        ahead: int | None = None,
        jump: float | None = JUMP,
        longest: int | None = LONGEST,
        encode: Callable[[Any], torch.Tensor] | None = None,
        fixed: bool = False,
        denoiser: Any = None,
        observe: Callable[[Any], Any] | None = None,
        memo: bool = False,
    ) -> None:
        self.chunks = Chunks(
            policy,
            denoiser,
            warm_start=_warm(warm_start),
            max_latency=None if max_latency is None else check_number("max_latency", max_latency, 0.0),
            jumps=None if jump is None else Jumps(check_number("jump", jump, 0.0), encode),
            longest=None if longest is None else check_whole("longest", longest, 1),
            fixed=fixed,
            memo=memo,
        )
        self.execute = None if execute is None else check_whole("execute", execute, 1)
        self.ahead = None if ahead is None else check_whole("ahead", ahead, 1)
        self.asynchronous, self.observe = asynchronous, observe
        self._lock = Lock()
        self._worker: ThreadPoolExecutor | None = None
        self._chunk: _Chunk | None = None
        self._next: Future[torch.Tensor] | None = None
        # Actions that were executed since the observation of the chunk that is being made.
        self._since = 0

    def __enter__(self) -> Self:
        """The loop itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the loop."""
        self.close()

    def close(self) -> None:
        """End the thread that makes chunks, once the one under way is made, and take the memo off.

        Its chunk is dropped: an action of it would be one for a moment before the loop was closed.
        """
        with self._lock:
            if self._worker is not None:
                self._worker.shutdown()
            self._worker = self._next = self._chunk = None
            self.chunks.close()

    def reset(self) -> None:
        """A new episode begins: actions, the chunk under way and all that was remembered are dropped."""
        with self._lock:
            if self._next is not None:
                self._next.exception()
            self._chunk = self._next = None
            forget = getattr(self.observe, "reset", None)
            if forget is not None:
                forget()
            self.chunks.begin()

    def act(self, observation: Any) -> torch.Tensor:
        """The next action, (numbers of an action) or (B, numbers of an action).

        Args:
            observation: the newest one; it is read where a chunk is begun.
        """
        with self._lock:
            observation = observation if self.observe is None else self.observe(observation)
            chunk = self._chunk
            if chunk is None or chunk.done >= chunk.until:
                chunk = self._chunk = self._following(chunk, observation)
            if self.asynchronous and self._next is None and chunk.until - chunk.done <= self._lead(chunk):
                self._begin(chunk, copied(observation))
            action = chunk.actions[..., chunk.done, :]
            chunk.done += 1
            self._since += 1
            return action

    def stats(self) -> LoopStats:
        """Percentiles of the chunks' latency, counts, and the stats of the denoiser's last run."""
        return self.chunks.counts.stats(self.chunks.stats(), self.chunks.memo_report())

    def _following(self, chunk: _Chunk | None, observation: Any) -> _Chunk:
        """The chunk to execute next; waits for it where it is not made yet."""
        if self.asynchronous:
            if self._next is None:
                self._begin(chunk, copied(observation))
            upcoming, self._next = self._next, None
            if upcoming is not None:
                self.chunks.counts.waited += not upcoming.done()
                return self._executed(upcoming.result(), self._since)
        previous = (None, 0) if chunk is None else (chunk.actions, chunk.done)
        return self._executed(self.chunks.make(observation, *previous), 0)

    def _begin(self, chunk: _Chunk | None, observation: Any) -> None:
        """Have the next chunk made in the loop's thread."""
        self._worker = self._worker or ThreadPoolExecutor(1, "dcache-loop")
        previous = (None, 0) if chunk is None else (chunk.actions, chunk.done)
        self._next = self._worker.submit(self.chunks.make, observation, *previous)
        self._since = 0

    def _executed(self, actions: torch.Tensor, past: int) -> _Chunk:
        """A chunk whose first actions were for moments that passed while it was made."""
        horizon = actions.shape[-2]
        done = min(past, horizon - 1)
        return _Chunk(actions, done, max(min(self.execute or horizon, horizon), done + 1))

    def _lead(self, chunk: _Chunk) -> int:
        """Actions before the chunk's end at which the next one is begun."""
        return self.ahead or max(1, min(self.execute or chunk.until, chunk.until) // 2)


def _warm(warm_start: Any) -> WarmStart | None:
    return warm_start if warm_start is None or isinstance(warm_start, WarmStart) else WarmStart(warm_start)
