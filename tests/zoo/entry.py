"""One pipeline class of diffusers with parts so small that a call takes a blink."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

STEPS = 6


@dataclass(frozen=True, eq=False)
class Entry:
    """How to build and call one pipeline class.

    Attributes:
        name: class name in diffusers.
        build: makes the pipeline; equal weights in every call.
        inputs: makes the arguments of a call, with `num_inference_steps` or its like.
        refused: for methods that must be refused on this pipeline, name -> a part of the error's text;
            `every` stands for all of them, refused at `enable`.
        nothing: methods that rightly predict nothing here, name -> the reason, a part of what `Stats` says.
        fast: whether it is one of the cover that the fast lane runs.
    """

    name: str
    build: Callable[[], Any]
    inputs: Callable[[], dict[str, Any]]
    refused: Mapping[str, str] = field(default_factory=dict)
    nothing: Mapping[str, str] = field(default_factory=dict)
    fast: bool = False

    def pipeline(self) -> Any:
        """A pipeline of its own, silent."""
        pipe = self.build()
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def run(self, pipe: Any) -> list[torch.Tensor]:
        """Everything numeric that one call returns; equal calls with equal seeds."""
        torch.manual_seed(0)
        with torch.no_grad():
            return leaves(pipe(**self.inputs()))


def leaves(output: Any) -> list[torch.Tensor]:
    """The numeric leaves of a pipeline's output as tensors: pictures, frames, latents, waves."""
    values = dict(output) if isinstance(output, Mapping) else output
    tensors = []
    for leaf in pytree.tree_leaves(values):
        if isinstance(leaf, torch.Tensor):
            tensors.append(leaf.detach().clone())
        elif isinstance(leaf, np.ndarray):
            tensors.append(torch.from_numpy(leaf.copy()))
        elif hasattr(leaf, "tobytes"):
            tensors.append(torch.from_numpy(np.asarray(leaf).copy()))
    return tensors
