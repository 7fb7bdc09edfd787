"""Imported schedules in use: pictures equal to caching module by module as ECAD does, and traces."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache.demo.pipeline import call_options, load_pipeline
from dcache.importers import read
from dcache.schedule import Schedule
from tests.importers.published import ecad
from tests.pipelines import FLUX, PIXART, STEPS, Shape

# ECAD's component -> the module whose output it remembers.
MODULES = {"attn1": "attn1", "attn2": "attn2", "ff": "ff"}
MODULES |= {"full_attn": "attn", "full_ff": "ff", "full_ff_context": "ff_context"}
MODULES |= {"single_attn": "attn", "single_proj_mlp": "proj_mlp", "single_proj_out": "proj_out"}


class Remembering:
    """A module's forward that computes where its bits say, else returns what it computed last."""

    def __init__(self, module: nn.Module, bits: list[bool]) -> None:
        self.forward, self.bits = module.forward, iter(bits)
        self.last: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if next(self.bits) or self.last is None:
            self.last = self.forward(*args, **kwargs)
        return self.last


def cache_as_published(model: nn.Module, content: dict[str, Any]) -> None:
    """Put the file's bits on the modules, one evaluation for each step."""
    table = content["cache_schedule"]["schedule"]
    for name, components in table["000"].items():
        single = name.startswith("single_")
        blocks: Any = model.single_transformer_blocks if single else model.transformer_blocks
        for component in components:
            module: Any = getattr(blocks[int(name.removeprefix("single_"))], MODULES[component])
            module.forward = Remembering(module, [step[name][component] for step in table.values()])


def imported(content: dict[str, Any], folder: Path) -> Schedule:
    path = folder / "evolved.json"
    path.write_text(json.dumps({**content, "config": {}}))
    schedule = read(path).schedule
    assert schedule is not None
    return schedule


def whole_single_blocks(content: dict[str, Any], draw: random.Random) -> None:
    """Bits that a `fused` site can follow exactly; attention alone, without a projection, leads nowhere."""
    for step in content["cache_schedule"]["schedule"].values():
        for name, bits in step.items():
            if name.startswith("single_"):
                both = draw.random() < 0.5
                bits.update(single_attn=both, single_proj_mlp=both, single_proj_out=both)


@pytest.mark.parametrize(("shape", "blocks", "singles"), [(PIXART, 3, None), (FLUX, 2, 2)], ids=str)
def test_pictures_are_those_of_the_published_runtime(
    shape: Shape, blocks: int, singles: int | None, tmp_path: Path
) -> None:
    draw = random.Random(5)
    content = ecad(draw, STEPS, blocks, singles)
    whole_single_blocks(content, draw)
    published, ours = shape.build(), shape.build()
    uncached = shape.run(published)
    cache_as_published(shape.denoiser(published), content)
    expected = shape.run(published)
    dcache.enable(ours, imported(content, tmp_path))
    assert torch.equal(shape.run(ours), expected)
    assert not torch.equal(uncached, expected)


def test_the_demo_computes_what_the_file_says(tmp_path: Path) -> None:
    pipe = load_pipeline()
    content = ecad(random.Random(0), 20, 12)
    schedule = imported(content, tmp_path)
    dcache.enable(pipe, schedule)
    pipe(["a red circle"], **{**call_options(), "num_inference_steps": 20, "output_type": "latent"})
    trace = dcache.trace(pipe)
    rows = schedule.components[""].rows["*"]
    assert (trace.steps, len(rows)) == (20, 36)
    # Sublayers lie in nothing that is predicted, so every one is reached in every evaluation.
    traced = trace.components["transformer"].rows
    assert all(branch == rows for branch in traced.values())
    bits = content["cache_schedule"]["schedule"]
    told = sum(bit for t in range(1, 20) for block in bits[f"{t:03}"].values() for bit in block.values())
    assert trace.components["transformer"].computed == len(traced) * (36 + told)
    assert dcache.stats(pipe).predicted > 0
