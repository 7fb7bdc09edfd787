"""What a run computes and predicts, counted from outside."""

import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import dcache
from dcache import methods
from dcache.engine.model_call import ModelCall
from dcache.engine.session import session_of
from tests.laws.product import PRESETS, plain
from tests.pipelines import SHAPES, Shape, at_step_end

PACKAGE = str(Path(dcache.__file__).parent)
DEEP = [shape for shape in SHAPES.values() if shape.depth]
UNITS = [
    pytest.param(shape, sampler, id=f"{shape}-{sampler}")
    for shape in SHAPES.values()
    for sampler in shape.samplers
]


def counted(modules: list[torch.nn.Module]) -> Counter[int]:
    """Counts by position how often each module really runs."""
    runs: Counter[int] = Counter()
    for i, module in enumerate(modules):
        module.register_forward_hook(lambda *_, i=i: runs.update([i]))
    return runs


@pytest.mark.parametrize("shape", [SHAPES["pixart"], SHAPES["flux"]], ids=str)
def test_taylorseer_computes_the_published_steps(shape: Shape) -> None:
    pipe = dcache.enable(shape.build(), methods.taylorseer())
    shape.run(pipe, num_inference_steps=50)
    published = [0, 1, 2, *range(8, 50, 6)]
    (plan,) = dcache.trace(pipe).components.values()
    for rows in plan.rows.values():
        for row in rows.values():
            assert [i for i, computed in enumerate(row) if computed] == published


@pytest.mark.parametrize(("shape", "sampler"), UNITS)
def test_every_evaluation_of_the_sampler_is_one(shape: Shape, sampler: str) -> None:
    pipe = dcache.enable(shape.build(sampler), methods.newton(interval=3, warmup=1))
    shape.run(pipe, "off")
    stats = dcache.stats(pipe)
    n = plain(shape.name, sampler, "off")[1]
    assert stats.steps == n
    # 0, 3, 6, ... and the last.
    computed = len({*range(0, n, 3), n - 1})
    assert (stats.computed, stats.predicted) == (computed, n - computed)
    assert stats.reasons == {"warmup": 1, "interval": computed - 2, "last": 1}


@pytest.mark.parametrize("sampler", ["pndm", "heun"])
@pytest.mark.parametrize("shape", [SHAPES["pixart"], SHAPES["sd"]], ids=str)
def test_second_order_samplers_evaluate_more_often_than_they_step(shape: Shape, sampler: str) -> None:
    pipe = dcache.enable(shape.build(sampler), "interval")
    shape.run(pipe, num_inference_steps=8)
    assert dcache.stats(pipe).steps == plain(shape.name, sampler, next(iter(shape.guidance)), 8)[1] > 8


@pytest.mark.parametrize("lowering", ["auto", "replay"])
@pytest.mark.parametrize("sites", ["trunk", "block", "run:1-2"])
@pytest.mark.parametrize("shape", DEEP, ids=str)
def test_a_predicted_step_runs_no_block_of_its_site(shape: Shape, sites: str, lowering: str) -> None:
    pipe = shape.build()
    runs = counted(shape.blocks(pipe))
    dcache.enable(pipe, methods.interval(interval=2, sites=sites), lowering=lowering)
    after: list[Counter[int]] = []
    shape.run(pipe, "off", **at_step_end(shape, lambda i: after.append(Counter(runs))))
    inside = {1, 2} if sites == "run:1-2" else set(range(shape.depth))
    for i in range(1, len(after)):
        ran = {block for block in after[i] if after[i][block] != after[i - 1][block]}
        assert ran == (set(range(shape.depth)) if i % 2 == 0 else set(range(shape.depth)) - inside)


@pytest.mark.parametrize("level", range(SHAPES["sd"].skips))
def test_a_predicted_bracket_runs_nothing_inside(level: int) -> None:
    shape = SHAPES["sd"]
    pipe = shape.build()
    session = session_of(shape.denoiser(dcache.enable(pipe, methods.deepcache(interval=2, branch_id=level))))
    assert session is not None
    runs = counted(list(session.binding.structure.skips[level].inside))
    after: list[int] = []
    shape.run(pipe, **at_step_end(shape, lambda i: after.append(runs.total())))
    steps = [b - a for a, b in pairwise(after)]
    assert after[0] > 0
    assert steps == [0, steps[1]] * (len(steps) // 2)
    assert steps[1] == after[0]


@pytest.mark.parametrize("name", ["interval", "newton-1-logsnr", "taylorseer-lite"])
@pytest.mark.parametrize("shape", DEEP, ids=str)
def test_a_predicted_trunk_step_costs_few_python_calls(shape: Shape, name: str) -> None:
    pipe = dcache.enable(shape.build(), PRESETS[name].method())
    calls: list[int] = [0]
    around: list[int] = [0]
    inside = False

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal inside
        if frame.f_code is ModelCall.__call__.__code__:
            inside = event == "call" or (inside and event != "return")
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            (calls if inside else around)[-1] += 1

    def next_step(i: int) -> None:
        calls.append(0)
        around.append(0)

    sys.setprofile(profile)
    try:
        shape.run(pipe, "off", **at_step_end(shape, next_step))
    finally:
        sys.setprofile(None)
    (plan,) = dcache.trace(pipe).components.values()
    (row,) = plan.rows["*"].values()
    predicted = [n for n, computed in zip(calls, row, strict=False) if not computed]
    assert predicted
    assert max(predicted) <= 40 + shape.depth
    # The sampler's step and diffusers' cache context.
    assert max(around[1 : len(row) - 1]) <= 8


@pytest.mark.parametrize("preset", ["interval", "taylorseer", "newton-1-logsnr", "interval-model"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_half_precision_runs_and_stays_finite(shape: Shape, preset: str) -> None:
    pipe = shape.build()
    shape.denoiser(pipe).to(torch.bfloat16)
    embeds = {k: v.bfloat16() if torch.is_tensor(v) else v for k, v in shape.inputs(1).items()}
    uncached = shape.run(pipe, "off", **embeds)
    dcache.enable(pipe, PRESETS[preset].all_compute())
    assert torch.equal(shape.run(pipe, "off", **embeds), uncached)
    dcache.enable(pipe, PRESETS[preset].method())
    cached = shape.run(pipe, "off", **embeds)
    assert dcache.stats(pipe).predicted > 0
    # Wan keeps its latents in float32.
    assert cached.dtype == uncached.dtype == (torch.float32 if shape.name == "wan" else torch.bfloat16)
    assert bool(torch.isfinite(cached).all())
