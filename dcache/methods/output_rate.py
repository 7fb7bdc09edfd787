"""EasyCache's change indicator: the output's expected change, from how it went with the input's."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch

from dcache.errors import DcacheWarning
from dcache.intercept.pytree import flatten
from dcache.kernels.changes import changes
from dcache.probes import SinceCompute

_UNCHANGED = (
    "easycache compares the first channels and tokens of the denoiser's input, as many as its output has, "
    "and they did not change between two computed evaluations, as where a condition is in front of the "
    "sample: the evaluation is computed. Choose a method that does not read the input, such as 'interval'."
)


class OutputRate(SinceCompute):
    """Expected relative change of the output: k |x_t - x_{t-1}| / |y|, k from the last two computed y."""

    def __init__(self) -> None:
        super().__init__()
        self.max_tensors = 6
        # (input, output) of the last two computed evaluations, oldest first.
        self.anchors: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.warned = False

    def change(self) -> float:
        """The expected relative change, infinite until two evaluations were computed. One sync.

        Infinite too, with a warning, where the input did not change between these two evaluations.
        """
        if self.now is None or self.then is None or len(self.anchors) < 2:
            return float("inf")
        (x0, y0), (x1, y1) = self.anchors
        y = changes(y0, y1, ("distance", "length"))
        moves = [changes(b, a, ("distance",)).mean("distance") for a, b in ((x0, x1), (self.then, self.now))]
        change = float(y.mean("distance") / moves[0] * moves[1] / y.mean("length"))
        # 0 / 0 is no NaN of the denoiser's: a condition in front of the sample never changes.
        if not math.isfinite(change) and float(moves[0]) == 0.0:
            if not self.warned:
                warnings.warn(_UNCHANGED, DcacheWarning, stacklevel=2)
            self.warned = True
            return math.inf
        return change

    def end_step(self, computed: bool, output: Any) -> None:
        """Store input and output of a computed evaluation that returns a tensor, and the input."""
        y = next((leaf for leaf in flatten(output)[0] if isinstance(leaf, torch.Tensor)), None)
        if computed and self.now is not None and y is not None:
            self.anchors = [*self.anchors[-1:], (self.now, y.clone())]
        self.then, self.now = self.now, None

    def tensors(self) -> list[torch.Tensor]:
        """All tensors that the indicator keeps."""
        return [*super().tensors(), *(t for pair in self.anchors for t in pair)]

    def capacity(self) -> list[torch.Tensor]:
        """The last input and two anchors, the second counted as large as the first."""
        return [*super().tensors(), *(t for pair in self.anchors[-1:] * 2 for t in pair)]
