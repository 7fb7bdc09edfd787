"""Blocks that dcache compiled, in bfloat16: the same bits as compiled blocks without dcache."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

import dcache
from dcache import Method, methods
from tests.engine.coexist import ALWAYS, EVERY_2, anatomy, branches
from tests.shapes import FLUX, PIXART, SD, SHAPES, WAN, Call, Shape


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def build(shape: Shape) -> Any:
    pipe = shape.build()
    shape.denoiser(pipe).to(torch.bfloat16)
    return pipe


def inputs(shape: Shape) -> Call:
    """The shape's embeddings in bfloat16."""
    return {
        name: value.to(torch.bfloat16)
        for name, value in shape.inputs(1).items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }


def compile_blocks(shape: Shape, pipe: Any, **options: Any) -> None:
    """What dcache compiles: the blocks, or the parts of a UNet's bracket; outside of it nothing."""
    model = shape.denoiser(pipe)
    parts = shape.blocks(pipe) or [model.down_blocks[1], model.mid_block]
    for part in parts:
        part.compile(**options)


def check(shape: Shape, options: Any, frames: CompileCounter | None) -> None:
    twin, pipe = build(shape), build(shape)
    if shape.depth:
        compile_blocks(shape, twin, **({} if options is True else options))
    plain = shape.run(twin, **inputs(shape))
    dcache.enable(pipe, ALWAYS, compile=options)
    first = shape.run(pipe, **inputs(shape))
    if shape.depth:
        assert torch.equal(first, plain)
    else:
        torch.testing.assert_close(first, plain, rtol=0.05, atol=0.05)
    dcache.enable(pipe, EVERY_2, compile=options)
    cached = shape.run(pipe, **inputs(shape))
    counted = frames.frame_count if frames is not None else 0
    for _ in range(2):
        assert torch.equal(shape.run(pipe, **inputs(shape)), cached)
        stats = dcache.stats(pipe)
        assert (stats.computed, stats.predicted) == (4 * branches(shape), 3 * branches(shape))
    assert frames is None or frames.frame_count == counted > 0
    assert not counters["graph_break"]
    assert cached.isfinite().all()
    assert not torch.equal(cached, first)
    dcache.enable(pipe, EVERY_2)
    print((shape.run(pipe, **inputs(shape)).float()-cached.float()).norm()/cached.float().norm())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_bfloat16_without_a_compiler_backend(shape: Shape) -> None:
    frames = CompileCounter()
    check(shape, {"backend": frames}, frames)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_bfloat16_with_inductor(shape: Shape) -> None:
    check(shape, True, None)
