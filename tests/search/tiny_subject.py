"""A subject made of a tiny pipeline of the tests, whose pictures are its latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.pipelines import Shape


class TinySubject:
    """What a search sees of a pipeline: calls by prompts and seeds."""

    guidance = None

    def __init__(self, shape: Shape, steps: int) -> None:
        self.shape, self.steps = shape, steps
        self.pipe: Any = shape.build()

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.float32]:
        latents = [self.shape.run(self.pipe, num_inference_steps=self.steps, seed=seed) for seed in seeds]
        return np.stack([each.float().numpy() for each in latents])
