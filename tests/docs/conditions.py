"""What holds while a page runs: a hub on the loopback, and what stands for missing packages and machines.

Each entry of a table names the page that it is for; a test checks that the page still needs it.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dcache
from dcache.demo.policies.pusht import PushT
from dcache.demo.policies.tasks import Outcome
from dcache.schedule import Schedule
from tests import hub_server
from tests.docs import stand_ins


@contextmanager
def holding(page: str, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the conditions of a page until the patch is undone; the hub is there for the time of the block."""
    _pretrained(patch)
    for arrange in MISSING.get(page, {}).values():
        arrange(patch)
    if page not in ON_THE_HUB:
        yield
        return
    with hub_server.serving() as hub:
        hub_server.use(hub, folder / "hub", patch)
        patch.setenv("HF_TOKEN", "t")
        for repository, schedule in ON_THE_HUB[page].items():
            schedule.push_to_hub(repository, token="t")
        yield


def _pretrained(patch: pytest.MonkeyPatch) -> None:
    """Pipelines of the hub are tiny ones of the class; folders are read."""
    from diffusers import DiffusionPipeline

    real = DiffusionPipeline.from_pretrained.__func__

    def from_pretrained(cls: Any, name: Any, **options: Any) -> Any:
        if name is ... or not Path(name).exists():
            pipe = stand_ins.HUB[name]()
            assert isinstance(pipe, cls)
            return pipe
        return real(cls, name, **options)

    patch.setattr(DiffusionPipeline, "from_pretrained", classmethod(from_pretrained))


def clusters(patch: pytest.MonkeyPatch) -> None:
    """k-means whose clusters are quarters of the points, in order."""

    class KMeans:
        def __init__(self, n_clusters: int, **options: Any) -> None:
            self.count = n_clusters

        def fit_predict(self, points: Any) -> list[int]:
            return [i * self.count // len(points) for i in range(len(points))]

    _module(patch, "sklearn.cluster", KMeans=KMeans)


def quantiser(patch: pytest.MonkeyPatch) -> None:
    """Weights of linear layers rounded to 255 levels of each row."""

    def quantize_(module: torch.nn.Module, config: Any) -> None:
        for part in module.modules():
            if isinstance(part, torch.nn.Linear):
                scale = part.weight.detach().abs().amax(1, keepdim=True) / 127
                part.weight.detach().copy_((part.weight / scale).round() * scale)

    _module(patch, "torchao.quantization", Int8DynamicActivationInt8WeightConfig=object, quantize_=quantize_)


class Still:
    """A simulator of PushT in which nothing moves, solved after the second chunk."""

    def reset(self, seed: int) -> Any:
        self.actions = 0
        return np.array([100.0, 100.0, 250.0, 250.0, 0.5], np.float32)

    def step(self, action: Any) -> Outcome:
        self.actions += 1
        return Outcome(np.array([100.0, 100.0, 250.0, 250.0, 0.5], np.float32), self.actions > 8, 0.5)


def simulator(patch: pytest.MonkeyPatch) -> None:
    """Episodes of 16 actions."""
    patch.setattr(PushT, "simulator", lambda task: Still())


def _module(patch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    """A package with one module, where it is not installed."""
    package = name.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        outer, module = types.ModuleType(package), types.ModuleType(name)
        outer.__spec__ = module.__spec__ = importlib.util.spec_from_loader(package, None)
        vars(module).update(content)
        patch.setitem(sys.modules, package, outer)
        patch.setitem(sys.modules, name, module)


def gpus(patch: pytest.MonkeyPatch) -> None:
    """A process of a group that is formed already, without a GPU."""
    from diffusers import DiffusionPipeline

    patch.setattr(torch.distributed, "init_process_group", lambda backend: None)
    patch.setattr(DiffusionPipeline, "to", lambda pipe, device: pipe)


def few_steps(patch: pytest.MonkeyPatch) -> None:
    """The shipped pipeline with 6 steps in place of 20: observing all its sites takes a while."""
    from dcache.eval import subject

    patch.setattr(subject, "load", functools.partial(subject.load, steps=6))


def compiler(patch: pytest.MonkeyPatch) -> None:
    """Blocks are traced and run as they are: compiling them takes most of a minute of a new machine."""
    patch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


def a_moment(patch: pytest.MonkeyPatch) -> None:
    """A refinement that ends after its first set of places, of runs of 8 steps."""
    real = dcache.refine

    def refine(pipe: Any, prompts: Any, **options: Any) -> Any:
        return real(pipe, prompts, **{**options, "minutes": 0.01, "num_inference_steps": 8})

    patch.setattr(dcache, "refine", refine, raising=False)


# Page -> repositories of the hub, and the schedules that they have.
ON_THE_HUB = {"docs/hub.md": {"someone/flux-fast": Schedule.of_steps([0, 1, 2, 5, 8, 11, 14, 17, 19], 20)}}
# Pages whose Python runs on two processes at once, on gloo.
PROCESSES = {"docs/parallel.md"}
# Page -> what is missing here -> what stands in its place.
MISSING: dict[str, dict[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "docs/calibrate.md": {"minutes=10": a_moment},
    "docs/corrections.md": {"torchao": quantiser},
    "docs/lm_kv/episodes.md": {"scikit-learn": clusters},
    "docs/methods/README.md": {"compile=True": compiler},
    "docs/parallel.md": {"nccl": gpus},
    "docs/policy-tasks.md": {"dcache policy bench": simulator},
    "docs/profile.md": {"load(": few_steps},
    "docs/tutorials/control-loop.md": {"dcache policy bench": simulator},
}
