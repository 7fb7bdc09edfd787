"""Other noise levels for a sampler, and its own again.

Only samplers of flow matching whose timesteps are their noise levels times `num_train_timesteps` can be given
other levels: the timestep that the denoiser is given then follows, as it must.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dcache.errors import DcacheError

# How far the ends may lie from the sampler's own: the noise was mixed for these.
_NEAR = 2e-3


@dataclass
class Grid:
    """The noise levels that a sampler was given, and its own."""

    sampler: Any
    sigmas: torch.Tensor
    timesteps: torch.Tensor
    own: tuple[torch.Tensor, torch.Tensor]

    @property
    def holds(self) -> bool:
        """Whether the sampler still has what it was given."""
        return self.sampler.sigmas is self.sigmas and self.sampler.timesteps is self.timesteps

    def restore(self) -> None:
        """Give the sampler its own levels back, unless it has others by now."""
        if self.holds:
            self.sampler.sigmas, self.sampler.timesteps = self.own


def put(sampler: Any, sigmas: Sequence[float]) -> Grid:
    """Give a sampler these noise levels in place of those that its `set_timesteps` has just made.

    Args:
        sampler: with `sigmas`, `timesteps` and a config that has `num_train_timesteps`.
        sigmas: T or T + 1 levels; without the end's it stays the sampler's own.

    Raises:
        DcacheError: it is no sampler of flow matching, or its number of steps or its ends are others.
    """
    name = type(sampler).__name__
    sigmas_before, times = getattr(sampler, "sigmas", None), getattr(sampler, "timesteps", None)
    train = getattr(sampler, "config", {}).get("num_train_timesteps")
    if not isinstance(sigmas_before, torch.Tensor) or not isinstance(times, torch.Tensor) or not train:
        raise _refusal(name, "it has no noise levels")
    levels = sigmas_before.detach().double().cpu()
    # Whole timesteps are cut off, from numbers that may lie just below them.
    rounding = 1e-4 * train if times.is_floating_point() else 1.01
    if len(levels) != len(times) + 1 or levels.max() > 1 or bool((levels.diff() >= 0).any()):
        raise _refusal(name, "its noise levels do not fall from 1 to 0, one for each timestep")
    if bool(((levels[:-1] * train - times.detach().double().cpu()).abs() > rounding).any()):
        raise _refusal(name, f"its timesteps are not its noise levels times {train}")
    if len(sigmas) not in (len(times), len(times) + 1):
        raise DcacheError(
            f"this schedule has {len(sigmas)} noise levels (the end's may be one of them), and the sampler "
            f"makes {len(times)} steps: use the schedule's own number of steps"
        )
    wanted = torch.tensor([*sigmas, *levels[len(sigmas) :].tolist()], dtype=torch.float64)
    ends = (wanted[[0, -1]] - levels[[0, -1]]).abs()
    if float(ends.max()) > _NEAR:
        raise DcacheError(
            f"this schedule's noise levels go from {wanted[0]:.4g} to {wanted[-1]:.4g} and {name}'s from "
            f"{levels[0]:.4g} to {levels[-1]:.4g}: it was planned for another sampler; plan for this one"
        )
    # Levels that are the sampler's own keep their timesteps to the bit.
    unchanged = (wanted[:-1].to(sigmas_before) == sigmas_before[:-1]).to(times.device)
    timesteps = torch.where(unchanged, times, (wanted[:-1] * train).to(times))
    if bool((timesteps.diff() >= 0).any()):
        raise DcacheError(f"two of this schedule's noise levels are one timestep to {name}: plan fewer steps")
    grid = Grid(sampler, wanted.to(sigmas_before), timesteps, (sigmas_before, times))
    sampler.sigmas, sampler.timesteps = grid.sigmas, grid.timesteps
    return grid


def _refusal(name: str, why: str) -> DcacheError:
    return DcacheError(
        f"this schedule changes the noise levels of the run, and {name} cannot be given any: {why}. Use a "
        "sampler of flow matching (FlowMatchEuler; DPMSolver++ or UniPC with use_flow_sigmas), or the "
        "schedule without them: dataclasses.replace(schedule, sigmas=())"
    )
