"""A run: one walk down the noise levels. It knows the evaluation under way, how many there are, their clocks.

A run is opened by the sampler (`identity/sampler.py`), by a hand-written loop (`identity/loop.py`) or by
`dcache.step`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from dcache.errors import DcacheError
from dcache.identity.clock import log_snr

# (timestep, noise level) of every evaluation of a run; None for what is not known.
Timesteps = tuple[tuple[float | None, float | None], ...]


@dataclass
class Run:
    """Where a denoising run stands.

    Attributes:
        timesteps: timestep value of every evaluation, where known.
        sigmas: noise level of every evaluation, where known.
        alphas_cumprod: the training table of samplers that have no sigmas, indexed by timestep.
        flow: whether sigmas are those of flow matching (x = (1 - s) x0 + s noise).
        sampler: class name of the sampler, "" for a hand-written loop.
        start: index in the tables of the first evaluation (image-to-image starts late).
        index: the evaluation under way, from 0.
        count: evaluations of the whole run, or None where that is not known.
        calls: denoiser calls since the last sampler step, over all denoisers.
        started: whether `place` was called.
        located: whether `start` is known rather than assumed.
        starts: entries of the table that the first evaluation may lie at, while there are several.
        entries: evaluations that the sampler's table lists from `start` on, None without a sampler.
        walks: entries that the loop was seen to go through, None where that was not seen.
        end: the first index behind the run, infinite where that is not known.
        view: how often the sampler's state was set back within the evaluation under way.
        views: the highest `view` of all evaluations so far.
        told: evaluation -> (timestep, noise level) of a hand-written loop.
        like: earlier runs that had the timesteps of this one so far, where nothing tells its length.
        expected: evaluations that it is taken to have because the newest of those had as many, or None.
        best: the clock that `clock(None)` stands for, once it was asked for.
        late: whether evaluations of it went by before it was seen.
        doubtful: whether it may turn out to be the run before it, gone on.
    """

    timesteps: Sequence[float] = ()
    sigmas: Sequence[float] = ()
    alphas_cumprod: Sequence[float] = ()
    flow: bool = False
    sampler: str = ""
    start: int = 0
    index: int = 0
    count: int | None = None
    calls: int = 0
    started: bool = False
    located: bool = False
    starts: Sequence[int] = ()
    entries: int | None = None
    walks: int | None = None
    end: float = math.inf
    view: int = 0
    views: int = 0
    told: dict[int, tuple[float | None, float | None]] = field(default_factory=dict)
    like: Sequence[Timesteps] = ()
    expected: int | None = None
    best: str = ""
    late: bool = False
    doubtful: bool = False

    def place(self, timestep: float | None, begin: int | None) -> None:
        """Fix where in the tables the first evaluation lies.

        Args:
            timestep: value the denoiser was called with, if it can be read.
            begin: the sampler's own begin index, if it has one.
        """
        self.started = True
        if begin is not None:
            self.start, self.located = begin, True
        elif timestep is not None and self.timesteps and not self.located:
            nearest = min(self.timesteps, key=lambda t: abs(t - timestep))
            starts, last = self._starts(nearest), len(self.timesteps) - 1 - self.index
            # A model may be given t / 1000 or 1 - t, which looks like the last entry at the first evaluation.
            near = abs(nearest - timestep) <= 1e-2 * max(1.0, abs(timestep))
            if near and starts and starts[0] < last:
                self.start, self.located = starts[0], True
                self.starts = starts if len(starts) > 1 else ()
        self._count_entries()

    def narrow(self, timestep: float | None) -> None:
        """Settle the start among the entries of one value (PNDM repeats its second one).

        Args:
            timestep: value that the denoiser is called with in this evaluation, behind the first.
        """
        fits = [start for start in self.starts if self.timesteps[start + self.index :][:1] == [timestep]]
        self.starts = fits if len(fits) > 1 else ()
        if fits:
            self.start = fits[0]
            self._count_entries()

    def lengths(self) -> set[int]:
        """The evaluations that it may have, as far as that is known by now; empty where nothing is."""
        if self.count is None:
            return set()
        return {self.count, *(len(self.timesteps) - start for start in self.starts)}

    def begin_at(self, timestep: float | None) -> None:
        """Settle the start by the timestep of the sampler's first step, where the denoiser's does not."""
        self.located = True
        fits = self._starts(timestep)
        if len(fits) == 1 and fits[0] != self.start:
            self.start = fits[0]
            self._count_entries()

    def set_back(self, evaluations: int) -> None:
        """The sampler's state was set back: the call is another branch of an evaluation that was ended."""
        self.index = max(0, self.index - evaluations)
        self.view += 1
        self.views = max(self.views, self.view)

    def jump(self, entries: int) -> None:
        """The sampler goes on this many entries of its table further on (or back, where negative)."""
        self.start += entries
        if self.count is not None:
            self.expect(self.count - entries)

    def expect(self, count: int) -> None:
        """Take the run for one of so many evaluations: calls behind these are none of it."""
        self.count = self.end = count

    @property
    def over(self) -> bool:
        """Whether the sampler made its last step: a call now is no evaluation of the run."""
        return self.index >= self.end

    @property
    def repeats(self) -> bool:
        """Whether the sampler's table has the first evaluation's timestep again at the one under way."""
        i = self.start + self.index
        return i < len(self.timesteps) and self.timesteps[i] == self.timesteps[self.start]

    def tell(self, timestep: float | None, sigma: float | None) -> None:
        """Note what a hand-written loop says of the evaluation under way."""
        self.told[self.index] = (timestep, sigma)
        if self.like:
            self.resemble(self.like)

    def join(self, timestep: float | None, sigma: float | None) -> None:
        """An evaluation that was taken for a run of its own was this one's first."""
        self.told = {0: (timestep, sigma), **{i + 1: values for i, values in self.told.items()}}
        self.index += 1

    def resemble(self, runs: Sequence[Timesteps]) -> None:
        """Take the run for one as long as the newest of these that has the same timesteps so far.

        Args:
            runs: earlier runs, the newest last.
        """
        self.like = [
            other
            for other in runs
            if all(i < len(other) and other[i] == values for i, values in self.told.items())
        ]
        self.expected = len(self.like[-1]) if self.like else None

    def clock(self, name: str | None) -> float:
        """The clock value of the evaluation under way.

        Args:
            name: one of `CLOCKS`, or None for log-SNR where the noise level is known, else the timestep where
                it is monotone, else the step. What None means is settled when it is first asked for, so that
                the clock values of a run are comparable.

        Raises:
            DcacheError: that clock is not known here.
        """
        if (name or self.best) == "step":
            return float(self.index)
        timestep, sigma = self._here()
        values = {
            "step": float(self.index),
            "timestep": timestep,
            "sigma": sigma,
            "logsnr": log_snr(timestep, sigma, self.flow, self.alphas_cumprod),
        }
        if name is None and not self.best:
            known = {clock for clock, value in values.items() if value is not None}
            by_timestep = "timestep" in known and self._monotone
            self.best = "logsnr" if "logsnr" in known else "timestep" if by_timestep else "step"
        clock = name or self.best
        value = values[clock]
        if value is None:
            raise self._unknown(clock)
        return value

    def time(self) -> float | None:
        """Timestep of the evaluation under way on the scale of training, 0 to 1000, where it is known."""
        timestep, _ = self._here()
        if timestep is None:
            return None
        announced = (t for t, _ in self.told.values() if t is not None)
        scale = max(map(abs, (*self.timesteps, *announced)), default=1000.0)
        return timestep if scale > 1.0 else timestep * 1000.0

    def logsnr(self) -> float | None:
        """Log signal-to-noise ratio of the evaluation under way, where it is known."""
        return log_snr(*self._here(), self.flow, self.alphas_cumprod)

    def _here(self) -> tuple[float | None, float | None]:
        if self.index in self.told:
            return self.told[self.index]
        i = self.start + self.index
        timestep = self.timesteps[i] if 0 <= i < len(self.timesteps) else None
        return timestep, self.sigmas[i] if 0 <= i < len(self.sigmas) else None

    def _count_entries(self) -> None:
        if self.timesteps:
            self.entries = len(self.timesteps) - self.start
            # Some loops leave the last entry out.
            self.expect(self.entries if self.walks is None else min(self.entries, self.walks))

    def _starts(self, timestep: float | None) -> list[int]:
        """Where the run began if the evaluation under way has this entry of the table."""
        return [i - self.index for i, t in enumerate(self.timesteps) if t == timestep and i >= self.index]

    @property
    def _monotone(self) -> bool:
        t = [v for v, _ in self.told.values() if v is not None] if self.told else list(self.timesteps)
        return all(a > b for a, b in pairwise(t)) or all(a < b for a, b in pairwise(t))

    def _unknown(self, clock: str) -> DcacheError:
        what = "timestep" if clock == "timestep" else "noise level"
        where = f"the sampler {self.sampler}" if self.sampler else "a hand-written loop"
        return DcacheError(
            f"clock={clock!r} needs the {what} of each evaluation, and {where} does not tell that of "
            f"evaluation {self.index}. Use clock='step', or call dcache.step(module, index=..., sigma=...) "
            "before each evaluation."
        )
