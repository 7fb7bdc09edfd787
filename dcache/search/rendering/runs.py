"""`Runs`: a denoiser in a loop of one's own, in the place of a pipeline that is called with prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dcache.errors import DcacheError
from dcache.eval.arrays import load_arrays
from dcache.eval.subject import Subject

FEWEST_DIMENSIONS = 3


class Runs(Subject):
    """Runs of a policy or a bare denoiser; the texts that stand for prompts are their numbers.

    Args:
        target: the policy or denoiser, on which caching is enabled.
        run: makes run number i and returns what it made, such as a chunk of actions, or nothing. torch's
            random numbers are seeded before each run.
        name: name in reports.
    """

    def __init__(self, target: Any, run: Callable[[int], Any], name: str = "") -> None:
        self.run = run
        self.pipe, self.name, self.options = target, name or type(target).__name__, {}

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.float32]:
        """Make the runs of these numbers.

        Args:
            prompts: numbers of runs, as texts.
            seeds: one for each run.

        Returns:
            What they made, (N, ..., last): at least three dimensions.
        """
        made = []
        for number, seed in zip(prompts, seeds, strict=True):
            torch.manual_seed(seed)
            with torch.no_grad():
                made.append(_array(self.run(int(number))))
        stacked = np.stack(made)
        return stacked.reshape(*stacked.shape, *(1,) * (FEWEST_DIMENSIONS - stacked.ndim))

    @property
    def steps(self) -> int | None:
        """Not known before a run."""
        return None

    @property
    def guidance(self) -> float | None:
        """The loop's own."""
        return None

    @property
    def kind(self) -> str:
        """Arrays of numbers are compared as pictures are."""
        return "image"


def as_subject(target: Any, run: Callable[[int], Any] | None) -> Subject:
    """The subject of an observation or a calibration: as it was given, or the runs of a callable.

    Raises:
        DcacheError: a module was given without a callable that runs it.
    """
    if run is not None:
        return Runs(target, run)
    if isinstance(target, nn.Module):
        raise DcacheError(
            f"{type(target).__name__} is a module, and what runs it is not known: give run=, a function that "
            "makes run number i, as in run=lambda i: policy.predict_action_chunk(observations[i])"
        )
    subject: Subject = target
    return subject


def as_prompts(prompts: Sequence[str] | int) -> Sequence[str]:
    """Prompts as they were given, or the numbers of so many runs.

    Raises:
        DcacheError: they are one text, or a prompt is no text.
    """
    if isinstance(prompts, int):
        return [str(i) for i in range(prompts)]
    if isinstance(prompts, str):
        raise DcacheError(f"prompts must be a list of texts, got one text: write [{prompts!r}]")
    other = next((prompt for prompt in prompts if not isinstance(prompt, str)), None)
    if other is not None:
        raise DcacheError(
            f"prompts must be texts, got {type(other).__name__} {other!r}: write each as a string, or give "
            "the number of runs"
        )
    return prompts


def load_observations(path: str | Path) -> list[dict[str, torch.Tensor]]:
    """The observations in a file, each a batch of one.

    Args:
        path: .npz or .safetensors: arrays (N, ...) by name, all of the same N.

    Raises:
        DcacheError: it is no such file, or its arrays have different numbers of observations.
    """
    file = Path(path)
    arrays = load_arrays(file)
    counts = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        shapes = ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items()) or "no arrays"
        raise DcacheError(
            f"{file} must have arrays (N, ...) with one and the same number of observations N, got {shapes}"
        )
    return [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(counts.pop())]


def _array(made: Any) -> NDArray[np.float32]:
    if made is None:
        return np.zeros((1, 1), np.float32)
    array = made.detach().cpu().numpy() if isinstance(made, torch.Tensor) else np.asarray(made)
    # The batch is that of the runs.
    array = array[0] if array.ndim > 2 and len(array) == 1 else array
    return array.astype(np.float32, copy=False)
