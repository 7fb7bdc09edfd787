"""Diffusion policies in a robot's control loop: chunks of actions, their latency, warm starts.

- `Loop` takes an observation and gives the next action; it makes a chunk where it has none left, or ahead of
  time in a thread.
- `History` stacks the last observations, for policies that take several.
- `Sampled` is a policy made of a denoiser and one of diffusers' samplers; `warm_start` begins a chunk with
  the last one, moved on and noised again.
"""

from dcache.policy.history import History
from dcache.policy.latency import LoopStats
from dcache.policy.loop import Loop
from dcache.policy.sampled import Sampled
from dcache.policy.warm import Start, WarmStart, moved_on, warm_start

__all__ = ["History", "Loop", "LoopStats", "Sampled", "Start", "WarmStart", "moved_on", "warm_start"]
