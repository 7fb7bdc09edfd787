"""Compiled blocks stay compiled behind dcache; a model compiled as a whole is refused, before and after."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

import dcache
from dcache import DcacheError, DcacheWarning, methods
from tests.engine.tiny_models import Mix, Toy, flux_pipe, flux_run, sd_pipe, sd_run, walk

EVERY_2 = methods.interval(interval=2)
SUBLAYERS = methods.interval(interval=2, sites=["attn", "mlp", "fused"])
STEPS = 6
TIMES = [6, 5, 4, 3, 2, 1]


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def mixes() -> Toy:
    torch.manual_seed(0)
    return Toy([Mix() for _ in range(3)])


def blocks(pipe: Any) -> list[Any]:
    return [*pipe.transformer.transformer_blocks, *pipe.transformer.single_transformer_blocks]


def compile_all(modules: Any, counter: Any) -> None:
    for module in modules:
        module.compile(backend=counter)


@pytest.mark.parametrize("when", ["before", "after", "by dcache"])
def test_compiled_blocks_give_the_same_run_with_constant_frames_and_no_breaks(when: str) -> None:
    pipe = flux_pipe()
    dcache.enable(pipe, EVERY_2)
    expected = flux_run(pipe)
    dcache.disable(pipe)
    counter = CompileCounter()
    if when == "before":
        compile_all(blocks(pipe), counter)
    dcache.enable(pipe, EVERY_2, compile={"backend": counter} if when == "by dcache" else False)
    if when == "after":
        compile_all(blocks(pipe), counter)
    torch.testing.assert_close(flux_run(pipe), expected)
    assert dcache.stats(pipe).predicted == 3
    frames = counter.frame_count
    assert frames > 0
    for _ in range(2):
        torch.testing.assert_close(flux_run(pipe), expected)
        assert dcache.stats(pipe).predicted == 3
    assert counter.frame_count == frames
    assert not counters["graph_break"]


def test_caching_adds_no_frames_to_those_of_an_uncached_run() -> None:
    plain, cached = CompileCounter(), CompileCounter()
    pipe = flux_pipe()
    compile_all(blocks(pipe), plain)
    flux_run(pipe)
    torch._dynamo.reset()
    pipe = flux_pipe()
    compile_all(blocks(pipe), cached)
    dcache.enable(pipe, EVERY_2)
    flux_run(pipe)
    assert cached.frame_count == plain.frame_count


def test_disable_leaves_the_blocks_compiled_as_they_were_found() -> None:
    pipe = flux_pipe()
    counter = CompileCounter()
    compile_all(blocks(pipe)[:2], counter)
    found = [b.__dict__.get("_compiled_call_impl") for b in blocks(pipe)]
    dcache.enable(pipe, EVERY_2)
    compile_all(blocks(pipe)[2:3], counter)
    flux_run(pipe)
    dcache.disable(pipe)
    left = [b.__dict__.get("_compiled_call_impl") for b in blocks(pipe)]
    assert left[:2] == found[:2]
    assert left[2] is not None
    assert left[3] is None
    dcache.enable(pipe, EVERY_2, compile={"backend": "eager"})
    flux_run(pipe)
    dcache.disable(pipe)
    assert [b.__dict__.get("_compiled_call_impl") for b in blocks(pipe)] == left


@pytest.mark.parametrize("method", [methods.fbcache(threshold=0.5), EVERY_2.with_sites(("run:1-2",))])
def test_blocks_outside_the_site_are_compiled_too(method: Any) -> None:
    pipe = flux_pipe()
    dcache.enable(pipe, method)
    expected = flux_run(pipe)
    counter = CompileCounter()
    dcache.enable(pipe, method, compile={"backend": counter})
    torch.testing.assert_close(flux_run(pipe), expected)
    assert dcache.stats(pipe).predicted > 0
    # Two classes of blocks, each one frame at least.
    assert counter.frame_count >= 2
    assert not counters["graph_break"]


# the whole model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["assigned", "in place"])
def test_a_pipeline_whose_model_was_compiled_is_refused(how: str) -> None:
    pipe = flux_pipe()
    if how == "assigned":
        pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    else:
        pipe.transformer.compile(backend="eager")
    with pytest.raises(DcacheError, match=r"FluxTransformer2DModel is compiled as a whole.*compile=True"):
        dcache.enable(pipe)
    with pytest.raises(DcacheError, match="compile=True"):
        dcache.enable(pipe.transformer)


@pytest.mark.parametrize("how", ["assigned", "in place"])
def test_a_pipeline_whose_model_is_compiled_afterwards_says_so_at_the_next_run(how: str) -> None:
    pipe = flux_pipe()
    dcache.enable(pipe, EVERY_2)
    flux_run(pipe)
    module = pipe.transformer
    if how == "assigned":
        pipe.transformer = torch.compile(module, backend="eager")
    else:
        with pytest.raises(DcacheError, match=r"FluxTransformer2DModel is compiled as a whole.*compile=True"):
            module.compile(backend="eager")
        flux_run(pipe)
        assert dcache.stats(pipe).predicted == 3
        # Past our word.
        nn.Module.compile(module, backend="eager")
    with pytest.raises(DcacheError, match=r"FluxTransformer2DModel is compiled as a whole.*compile=True"):
        flux_run(pipe)
    pipe.transformer = module
    module._compiled_call_impl = None
    flux_run(pipe)
    assert dcache.stats(pipe).predicted == 3


@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_a_bare_model_that_is_compiled_afterwards_says_so(how: str) -> None:
    toy = mixes()
    dcache.enable(toy, EVERY_2)
    walk(toy, TIMES)
    if how == "in place":
        with pytest.raises(DcacheError, match=r"Toy is compiled as a whole.*compile=True"):
            toy.compile(backend="eager")
    else:
        compiled = torch.compile(toy, backend="eager")
        with pytest.raises(DcacheError, match=r"Toy is compiled as a whole.*compile=True"), torch.no_grad():
            compiled(torch.ones(1, 2, 4), 6)
    walk(toy, TIMES)
    assert dcache.stats(toy).predicted == 3
    dcache.disable(toy)
    toy.compile(backend="eager")
    walk(toy, TIMES)


class Policy(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, t: int) -> torch.Tensor:
        return self.inner(x, t) + 1


@pytest.mark.parametrize("around", [lambda toy: lambda x, t: toy(x, t) + 1, Policy])
@pytest.mark.parametrize("fullgraph", [False, True])
def test_what_is_compiled_around_the_model_would_inline_it_past_us_and_says_so(
    around: Any, fullgraph: bool
) -> None:
    toy = mixes()
    outside = around(toy)
    dcache.enable(toy, EVERY_2)
    compiled = torch.compile(outside, backend="eager", fullgraph=fullgraph)
    # Under fullgraph dynamo wraps our error in its own.
    loud = torch._dynamo.exc.Unsupported if fullgraph else DcacheError
    with pytest.raises(loud, match=r"Toy is compiled as a whole.*compile=True"), torch.no_grad():
        compiled(torch.ones(1, 2, 4), 6)
    with torch.no_grad():
        assert torch.equal(outside(torch.ones(1, 2, 4), 6), walk(toy, TIMES)[0] + 1)
    dcache.disable(toy)
    assert not toy._forward_pre_hooks
    torch._dynamo.reset()
    plain = walk(toy, TIMES)
    with torch.no_grad():
        for t, y in zip(TIMES, plain, strict=True):
            torch.testing.assert_close(compiled(torch.ones(1, 2, 4), t), y + 1)


# sublayers ----------------------------------------------------------------------------------------


def test_sublayer_sites_inside_compiled_blocks_are_refused() -> None:
    pipe = flux_pipe()
    compile_all(blocks(pipe), "eager")
    with pytest.raises(DcacheError, match="compile=True"):
        dcache.enable(pipe, SUBLAYERS)
    dcache.enable(pipe, EVERY_2)
    dcache.disable(pipe)


def test_blocks_compiled_around_sublayer_sites_are_refused_at_the_next_run() -> None:
    pipe = flux_pipe()
    dcache.enable(pipe, SUBLAYERS)
    flux_run(pipe)
    compile_all(blocks(pipe), "eager")
    with pytest.raises(DcacheError, match="compile=True"):
        flux_run(pipe)


def test_with_compile_the_sublayers_themselves_are_compiled() -> None:
    pipe = flux_pipe()
    dcache.enable(pipe, SUBLAYERS)
    expected = flux_run(pipe)
    counter = CompileCounter()
    dcache.enable(pipe, SUBLAYERS, compile={"backend": counter})
    torch.testing.assert_close(flux_run(pipe), expected)
    frames = counter.frame_count
    assert frames >= 3
    torch.testing.assert_close(flux_run(pipe), expected)
    assert counter.frame_count == frames
    assert not counters["graph_break"]


# more of compile=True
# -----------------------------------------------------------------------------------------------


def test_a_unets_bracket_is_compiled_part_by_part() -> None:
    pipe = sd_pipe()
    dcache.enable(pipe, EVERY_2)
    expected = sd_run(pipe)
    counter = CompileCounter()
    dcache.enable(pipe, EVERY_2, compile={"backend": counter})
    torch.testing.assert_close(sd_run(pipe), expected, rtol=1e-3, atol=1e-3)
    frames = counter.frame_count
    assert frames > 0
    sd_run(pipe)
    assert counter.frame_count == frames
    assert dcache.stats(pipe).predicted == 3


def test_compile_where_there_is_nothing_to_compile_says_so() -> None:
    class Flat(nn.Module):
        def forward(self, x: torch.Tensor, timestep: int) -> torch.Tensor:
            return x * timestep

    with pytest.warns(DcacheWarning, match="compile=True found nothing to compile in Flat"):
        dcache.enable(Flat().eval(), EVERY_2.with_sites(("model",)), compile=True)
