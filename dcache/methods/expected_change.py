"""SenCache's change indicator: the output's expected change, from measured sensitivities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.kernels.changes import changes
from dcache.probes import SinceCompute


class ExpectedChange(SinceCompute):
    """Expected change of the output since the last compute: J_x rms(x - x_a) + J_s |s - s_a|.

    s is the noise level, noise / (signal + noise). `table` is s, J_x, J_s of one level after the other; the
    level nearest to s_a counts.
    """

    def __init__(self, table: Sequence[float]) -> None:
        super().__init__()
        self.levels = list(zip(table[::3], table[1::3], table[2::3], strict=True))
        self.level: float | None = None
        self.level_then: float | None = None

    def update(self, x: torch.Tensor, logsnr: float | None) -> None:
        """Take the latents and the noise level."""
        self.now = x
        self.level = None if logsnr is None else 1.0 / (1.0 + math.exp(logsnr / 2.0))

    def change(self) -> float:
        """Infinite until an evaluation was computed. One sync.

        Raises:
            DcacheError: the noise level is not known.
        """
        if self.now is None or self.then is None:
            return math.inf
        if self.level is None or self.level_then is None:
            raise DcacheError(
                "sencache needs the noise level of each evaluation, and this run has none: call "
                "dcache.step(module, index=..., sigma=...) before each evaluation"
            )
        then = self.level_then
        _, j_x, j_s = min(self.levels, key=lambda level: abs(level[0] - then))
        squares = changes(self.now, self.then, ("square",)).mean("square")
        return j_x * math.sqrt(float(squares)) + j_s * abs(self.level - then)

    def end_step(self, computed: bool, output: Any) -> None:
        """Keep the level of a computed evaluation with its latents."""
        if computed:
            self.level_then = self.level
        super().end_step(computed, output)


@dataclass(frozen=True)
class Sensitivities:
    """Makes the indicators of one table."""

    table: tuple[float, ...]

    def __call__(self) -> ExpectedChange:
        """The indicator of one branch."""
        return ExpectedChange(self.table)
