"""Identity without a sampler: what a hand-written loop tells by its timesteps.

The timestep argument is found by name. Its direction is learned from the first change; equal values are
another guidance branch of the same evaluation, or, with another sample, another evaluation at the same noise
level; a value against the direction opens a new run. Where that is
ambiguous the error says to use `dcache.step`.
"""

from __future__ import annotations

from dcache.errors import DcacheError
from dcache.identity.run import Run

TIME_NAMES = (
    "timestep",
    "timesteps",
    "t",
    "time",
    "time_step",
    "sigma",
    "sigmas",
    "noise_level",
    "noise_levels",
    "vision_timesteps",
)
MOST_BRANCHES = 8
# Two steps are taken for those of one grid where one is at most so many times the other.
_EVEN = 1.5
_HINT = (
    "Call dcache.step(module, index=i, sigma=..., branch=...) before each denoiser call of the loop: it "
    "says which evaluation and which guidance branch comes next."
)


class Loop:
    """Follows the timesteps of one module that is called in a hand-written loop.

    Args:
        before: timestep of a run of one evaluation that may be this one's first: the next sample is not what
            a step can have made of its, but where noise levels begin at (almost) pure noise, a step that adds
            noise (DDPM) keeps nothing of the sample. Timesteps that go on evenly settle it.
    """

    def __init__(self, before: float | None = None) -> None:
        self.before = before
        self.run: Run | None = None
        self.value: float | None = None
        self.rising: bool | None = None
        self.branches: list[int] = []

    def see(self, value: float | None, is_sigma: bool, stage: bool = False) -> Run:
        """Note a call with this timestep; returns the run it belongs to.

        Args:
            value: the timestep.
            is_sigma: whether that is a noise level.
            stage: whether a call with the last call's timestep is another evaluation at it, as second-order
                samplers make them (Heun, Runge-Kutta), and no branch.

        Raises:
            DcacheError: the timestep cannot be read, or cannot tell evaluations apart.
        """
        if value is None:
            raise DcacheError(
                "dcache cannot tell which evaluation this denoiser call belongs to: no sampler was seen "
                "and the call has no timestep argument with one value (looked for "
                f"{', '.join(TIME_NAMES)}). {_HINT}"
            )
        if self.run is None or self.value is None:
            return self._open(value, is_sigma)
        if value == self.value and not stage:
            self.branches[-1] += 1
            self._check_branches()
            return self.run
        rising = value > self.value
        if not stage:
            if self.rising is not None and rising != self.rising:
                return self._open(value, is_sigma)
            self.rising = rising
        if self.before is not None:
            self._join(self.before, value, is_sigma)
        self.value = value
        self.branches.append(1)
        self.run.index += 1
        self._tell(value, is_sigma)
        return self.run

    @property
    def full(self) -> bool:
        """Whether one more call with this timestep would be more than any evaluation before had."""
        return len(self.branches) > 1 and self.branches[-1] >= max(self.branches[:-1])

    def _join(self, before: float, value: float, is_sigma: bool) -> None:
        """Take the run for the one before it, gone on, if its next timestep follows as this one did."""
        self.before = None
        if self.run is not None and self.value is not None:
            last, now = self.value - before, value - self.value
            if last * now > 0 and 1 / _EVEN <= now / last <= _EVEN:
                self.run.join(None if is_sigma else before, before if is_sigma else None)

    def _open(self, value: float, is_sigma: bool) -> Run:
        self.run = Run(started=True, doubtful=self.before is not None)
        self.value = value
        self.branches = [1]
        self._tell(value, is_sigma)
        return self.run

    def _tell(self, value: float, is_sigma: bool) -> None:
        if self.run is not None:
            self.run.tell(None if is_sigma else value, value if is_sigma else None)

    def _check_branches(self) -> None:
        if self.branches[-1] > MOST_BRANCHES:
            raise DcacheError(
                f"the denoiser was called {self.branches[-1]} times with one timestep: that is more than the "
                f"supported maximum of {MOST_BRANCHES} guidance branches. {_HINT}"
            )
        if len(self.branches) > 1 and self.branches[-1] > max(self.branches[:-1]):
            raise DcacheError(
                "the denoiser was called more often with this timestep than with any before it. That is a "
                "second-order sampler, or guidance that starts late, and the timestep cannot tell which. "
                f"{_HINT}"
            )
