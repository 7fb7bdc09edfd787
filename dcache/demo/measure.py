"""Measure methods side by side: the same captions and seeds, in rounds, one warm-up each, medians."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dcache
from dcache.demo.specs import Choice
from dcache.errors import DcacheError, DcacheWarning

Call = Callable[[], NDArray[np.float32]]
UNCACHED = Choice(spec="", label="uncached", method=None, call="")


@dataclass
class Measured:
    """One contestant: the pictures and seconds of its calls.

    Attributes:
        seconds: wall clock of every timed call, text encoder and VAE included.
        denoiser_seconds: time inside the denoiser, of the same calls.
        pictures: (N, H, W, 3) in [0, 1], of the last call.
        stats, trace: of the last call.
        warnings: what dcache warned about in the warm-up.
    """

    choice: Choice
    seconds: list[float] = field(default_factory=list)
    denoiser_seconds: list[float] = field(default_factory=list)
    pictures: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 1, 1, 3), np.float32))
    stats: dcache.Stats = field(default_factory=dcache.Stats)
    trace: dcache.Schedule | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """What it is called in tables and pictures."""
        return self.choice.label

    @property
    def median(self) -> float:
        """Median wall clock of a call, in seconds."""
        return statistics.median(self.seconds)

    @property
    def denoiser_median(self) -> float:
        """Median time inside the denoiser, in seconds."""
        return statistics.median(self.denoiser_seconds)


def measure(
    pipe: Any, call: Call, choices: list[Choice], repeats: int, tell: Callable[[int, str], None]
) -> list[Measured]:
    """Run the uncached pipeline and every method once for warm-up and `repeats` times on the clock.

    The contestants take turns, so that a machine that slows down slows all of them. Every call is the first
    one after `enable`, its self-check included; `enable` itself is not timed. Caching is off afterwards,
    whatever happens.

    Args:
        pipe: a pipeline without caching.
        call: runs it and returns float pictures.
        choices: the methods.
        repeats: timed rounds.
        tell: called with round (0 is the warm-up) and label before each call.

    Returns:
        The uncached pipeline first, then the methods in their order.

    Raises:
        DcacheError: a method cannot be used on this pipeline; the message names it.
    """
    contestants = [Measured(choice) for choice in (UNCACHED, *choices)]
    _check(pipe, choices)
    for turn in range(repeats + 1):
        for one in contestants:
            tell(turn, one.label)
            _run(pipe, call, one, timed=turn > 0)
    return contestants


def _check(pipe: Any, choices: list[Choice]) -> None:
    for choice in choices:
        try:
            with warnings.catch_warnings(), dcache.enabled(pipe, choice.method):
                warnings.simplefilter("ignore", DcacheWarning)
        except DcacheError as error:
            raise DcacheError(f"{choice.spec}: {error}") from error


def _run(pipe: Any, call: Call, one: Measured, timed: bool) -> None:
    if one.choice.method is None:
        with _clock(pipe.transformer) as spent:
            seconds = _timed(call, one)
        inside = spent[0]
    else:
        try:
            with warnings.catch_warnings(record=True) as caught, dcache.enabled(pipe, one.choice.method):
                warnings.simplefilter("always", DcacheWarning)
                seconds = _timed(call, one)
                one.stats, one.trace = dcache.stats(pipe), dcache.trace(pipe)
        except DcacheError as error:
            raise DcacheError(f"{one.choice.spec}: {error}") from error
        one.warnings = list(
            dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, DcacheWarning))
        )
        inside = one.stats.seconds_compute + one.stats.seconds_predict
    if timed:
        one.seconds.append(seconds)
        one.denoiser_seconds.append(inside)


def _timed(call: Call, one: Measured) -> float:
    began = perf_counter()
    one.pictures = call()
    return perf_counter() - began


@contextmanager
def _clock(module: Any) -> Iterator[list[float]]:
    """Add up the seconds of a module's calls by two hooks, as `dcache.stats` does where caching is on."""
    spent, began = [0.0], [0.0]

    def before(*_: Any) -> None:
        began[0] = perf_counter()

    def after(*_: Any) -> None:
        spent[0] += perf_counter() - began[0]

    hooks = [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield spent
    finally:
        for hook in hooks:
            hook.remove()
