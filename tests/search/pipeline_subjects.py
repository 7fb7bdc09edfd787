"""The pipelines of `tests.pipelines` as subjects, and tables of their features without dcache."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dcache.eval.subject import Subject
from dcache.profile import FeatureTables
from tests.pipelines import PIXART, Shape


@dataclass
class Shaped(Subject):
    """A shape's pipeline; the prompt is the name of a seed for its embeddings, pictures are its latents."""

    pipe: Any = None
    name: str = "shaped"
    shape: Shape = field(default_factory=lambda: PIXART)
    guided: str = ""

    @property
    def guidance(self) -> float | None:
        """None: the shape's runs bring a scale of their own."""
        return None

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.float32]:
        made = [
            self.shape.run(self.pipe, self.guided, int(prompt), generator=torch.Generator().manual_seed(seed))
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        return torch.cat(made).numpy().reshape(len(prompts), 1, -1, 1)


def shaped(shape: Shape, guided: str = "", sampler: str = "") -> Shaped:
    """A subject of its own."""
    return Shaped(shape.build(sampler), shape=shape, guided=guided)


@contextmanager
def hooked(module: nn.Module, take: Any) -> Iterator[list[list[torch.Tensor]]]:
    """What `take(args, kwargs, output)` is of every call: tensors, copied."""
    found: list[list[torch.Tensor]] = []
    entries: list[Any] = []

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        entries[:] = [[a.clone() if isinstance(a, torch.Tensor) else a for a in args], dict(kwargs)]

    def after(_: nn.Module, __: Any, output: Any) -> None:
        found.append([t.clone() for t in take(entries[0], entries[1], output)])

    hooks = [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after),
    ]
    yield found
    for hook in hooks:
        hook.remove()


def tables_of(features: Sequence[Sequence[Sequence[torch.Tensor]]]) -> FeatureTables:
    """The tables of runs x evaluations x leaves, by their definition."""
    runs = [
        np.stack([np.concatenate([leaf.double().numpy().ravel() for leaf in leaves]) for leaves in run])
        for run in features
    ]
    steps = range(len(runs[0]))
    gram = [[np.mean([np.mean(z[t] * z[u]) for z in runs]) for u in steps] for t in steps]
    distance = [[np.mean([np.mean(np.abs(z[t] - z[u])) for z in runs]) for u in steps] for t in steps]
    return FeatureTables(
        np.array(gram), np.array(distance), np.array([np.mean(np.abs(z)) for z in zip_runs(runs)])
    )


def zip_runs(runs: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Evaluation -> its vector in every run."""
    return [[run[t] for run in runs] for t in range(len(runs[0]))]


def assert_tables(found: FeatureTables, expected: FeatureTables, rel: float = 1e-5) -> None:
    """All three agree, relative to the largest entry."""
    for name in ("gram", "distance", "size"):
        a, b = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(a, b, rtol=0, atol=rel * np.abs(b).max(), err_msg=name)
