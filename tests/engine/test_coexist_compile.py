"""Blocks that dcache compiled, in bfloat16: the same bits as compiled blocks without dcache."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

import dcache
from dcache.engine.session import session_of
from tests.cover import with_slow
from tests.engine.coexistence_checks import ALWAYS, EVERY_2, anatomy, branches
from tests.pipelines import FLUX, PIXART, SD, SHAPES, WAN, Call, Shape

# A UNet's upsampler asks for torch's version while it is traced.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning"
)


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


def compile_parts(shape: Shape, pipe: Any, **options: Any) -> None:
    """What dcache compiles: the modules that it stands in front of and that hold none of the others."""
    dcache.enable(pipe, EVERY_2)
    session = session_of(shape.denoiser(pipe))
    assert session is not None
    taken = {intercept.module for intercept in session.binding.intercepts}
    dcache.disable(pipe)
    for part in taken:
        if not taken.intersection(list(part.modules())[1:]):
            part.compile(**options)


def check(shape: Shape, options: Any, frames: CompileCounter | None, tolerance: float) -> None:
    twin, pipe = build(shape), build(shape)
    compile_parts(shape, twin, **({} if options is True else options))
    plain = shape.run(twin, **inputs(shape))
    dcache.enable(pipe, ALWAYS, compile=options)
    assert torch.equal(shape.run(pipe, **inputs(shape)), plain)
    dcache.enable(pipe, EVERY_2, compile=options)
    cached = shape.run(pipe, **inputs(shape))
    counted = frames.frame_count if frames is not None else 0
    for _ in range(2):
        assert torch.equal(shape.run(pipe, **inputs(shape)), cached)
        stats = dcache.stats(pipe)
        assert (stats.computed, stats.predicted) == (4 * branches(shape), 3 * branches(shape))
    assert frames is None or frames.frame_count == counted > 0
    assert not counters["graph_break"]
    assert not torch.equal(cached, plain)
    dcache.enable(pipe, EVERY_2)
    eager = shape.run(pipe, **inputs(shape)).float()
    assert (eager - cached.float()).norm() <= tolerance * eager.norm()
    dcache.disable(pipe)
    fresh = build(shape)
    assert torch.equal(shape.run(pipe, **inputs(shape)), shape.run(fresh, **inputs(shape)))
    assert anatomy(shape, pipe) == anatomy(shape, fresh)


@pytest.mark.parametrize("shape", with_slow(FLUX, slow=(SD, WAN, PIXART)), ids=str)
def test_bfloat16_without_a_compiler_backend(shape: Shape) -> None:
    frames = CompileCounter()
    check(shape, {"backend": frames}, frames, 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_bfloat16_with_inductor(shape: Shape) -> None:
    # It keeps more bits between two operations than eager bfloat16 does.
    check(shape, True, None, 0.05)


@pytest.mark.parametrize("sites", ["auto", pytest.param("sublayers", marks=pytest.mark.slow)])
def test_layers_of_a_lora_that_comes_between_runs_are_compiled_too(sites: str) -> None:
    from peft import LoraConfig

    def adapt(pipe: Any) -> None:
        torch.manual_seed(3)
        config = LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "proj_mlp", "proj_out"])
        pipe.transformer.add_adapter(config, "one")

    method = EVERY_2.with_sites((sites,))
    twin, pipe = FLUX.build(), FLUX.build()
    adapt(twin)
    dcache.enable(twin, method)
    expected = FLUX.run(twin)
    frames = CompileCounter()
    dcache.enable(pipe, method, compile={"backend": frames})
    FLUX.run(pipe)
    before = frames.frame_count
    adapt(pipe)
    torch.testing.assert_close(FLUX.run(pipe), expected)
    after = frames.frame_count
    assert after > before > 0
    torch.testing.assert_close(FLUX.run(pipe), expected)
    assert frames.frame_count == after
    assert dcache.stats(pipe).predicted == dcache.stats(twin).predicted > 0
