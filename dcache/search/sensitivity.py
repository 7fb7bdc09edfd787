"""How sensitive a denoiser is to its latents and to its noise level: the numbers of SenCache.

Between evaluations i and i + 1 of an uncached run, y = f(x, t) being the denoiser's output:

    J_x = rms(f(x_{i+1}, t_i) - y_i) / rms(x_{i+1} - x_i)
    J_s = rms(f(x_i, t_{i+1}) - y_i) / |s_{i+1} - s_i|

Both need a call more for each evaluation.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

import dcache
from dcache.cache.continued import cut
from dcache.errors import DcacheError
from dcache.eval.subject import Subject
from dcache.intercept.pytree import flatten
from dcache.method import Method
from dcache.probes import Probe, SinceCompute
from dcache.schedulers import Every


@dataclass(frozen=True)
class Evaluation:
    """The first call of one evaluation: its arguments by name, its output, its noise level."""

    arguments: Mapping[str, Any]
    output: torch.Tensor
    level: float


class SensitivityHook:
    """A forward hook that compares every evaluation with the one before.

    Args:
        module: the denoiser.
        levels: the noise levels of its calls so far, the newest last.

    Raises:
        DcacheError: its call takes no `timestep`.
    """

    def __init__(self, module: nn.Module, levels: Sequence[float]) -> None:
        self.signature = inspect.signature(module.forward)
        self.sample = next(iter(self.signature.parameters))
        if "timestep" not in self.signature.parameters:
            raise DcacheError(f"{type(module).__name__} has no argument 'timestep', which would be changed")
        self.levels = levels
        self.before: Evaluation | None = None
        self.rows: list[tuple[float, float, float]] = []

    def __call__(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        """Compare, where this is the first call of an evaluation."""
        call = self.signature.bind(*args, **kwargs)
        before, level = self.before, self.levels[-1]
        if before is not None and level == before.level:
            return
        arguments = {**call.arguments, self.sample: call.arguments[self.sample].clone()}
        now = Evaluation(arguments, flatten(output)[0][0].clone(), level)
        if before is not None:
            change_x = self._change(module, before, self.sample, now)
            change_s = self._change(module, before, "timestep", now)
            # As the probe sees it: without the channels and tokens that the output does not continue.
            moved = rms(cut(arguments[self.sample] - before.arguments[self.sample], now.output))
            self.rows.append((before.level, change_x / moved, change_s / abs(level - before.level)))
        self.before = now

    def _change(self, module: nn.Module, before: Evaluation, name: str, now: Evaluation) -> float:
        """Change of the output before, with one argument of now."""
        call = self.signature.bind_partial()
        call.arguments.update({**before.arguments, name: now.arguments[name]})
        return rms(flatten(module.forward(*call.args, **call.kwargs))[0][0] - before.output)


def sensitivities(subject: Subject, prompts: Sequence[str], module: nn.Module) -> list[float]:
    """Noise level, J_x and J_s of one evaluation after the other, as means over the prompts.

    Raises:
        DcacheError: the denoiser takes no timestep, or the noise levels are not known.
    """
    runs = [_of_run(subject, prompt, seed, module) for seed, prompt in enumerate(prompts)]
    return [float(v) for v in np.mean(runs, axis=0).ravel()]


def _of_run(subject: Subject, prompt: str, seed: int, module: nn.Module) -> list[tuple[float, float, float]]:
    levels: list[float] = []

    class Levels(SinceCompute):
        """Notes the noise levels."""

        def update(self, x: torch.Tensor, logsnr: float | None) -> None:
            if logsnr is None:
                raise DcacheError("the sampler does not tell its noise levels")
            levels.append(1.0 / (1.0 + math.exp(logsnr / 2.0)))

    everything = Method(rule=Every(1), sites=("model",), probe=Probe("input", indicator=Levels))
    hook = SensitivityHook(module, levels)
    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        with dcache.enabled(subject.pipe, everything):
            subject([prompt], [seed])
    finally:
        handle.remove()
    return hook.rows


def rms(x: torch.Tensor) -> float:
    """Root mean square."""
    return float(x.float().square().mean().sqrt())
