"""What was enabled and disabled is freed with its pipeline, at once and without the cyclic collector."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import dcache
from dcache import DcacheError, methods
from tests.engine.tiny_models import Toy, walk
from tests.pipelines import PIXART, SHAPES, Shape

METHODS = {
    "trunk": methods.interval(interval=2),
    "blocks": methods.interval(interval=2, sites="block"),
    "sublayers": methods.taylorseer(sites=["attn", "mlp"]),
    "model": methods.newton(sites="model"),
    "probe": methods.fbcache(threshold=0.1),
    "attention": methods.teacache(threshold=0.1, coefficients=[1.0, 0.0]),
    "guidance": methods.fastercache(),
}


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """On again, whatever a test did."""
    yield
    gc.enable()


def without_collector(thing: Any) -> Any:
    """The same, from here on without the collector; what its making left behind is collected before."""
    gc.collect()
    gc.disable()
    return thing


# With a cache context Flux and Wan keep diffusers' hook registry, which refers to its module: a circle.
CASES = [(SHAPES[name], ran) for name in ("pixart", "sd") for ran in (False, True)]
CASES += [(SHAPES[name], False) for name in ("flux", "wan")]


@pytest.mark.parametrize(("shape", "ran"), CASES)
def test_a_plain_pipeline_is_freed_at_once(shape: Shape, ran: bool) -> None:
    """The bar: diffusers itself makes no circle around the denoiser."""
    pipe = without_collector(shape.build())
    if ran:
        shape.run(pipe)
    denoiser = weakref.ref(shape.denoiser(pipe))
    del pipe
    assert denoiser() is None


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("ran", [False, True])
def test_so_is_one_on_which_caching_was_disabled(name: str, ran: bool) -> None:
    pipe = dcache.enable(without_collector(PIXART.build()), METHODS[name])
    if ran:
        PIXART.run(pipe)
    dcache.disable(pipe)
    denoiser = weakref.ref(PIXART.denoiser(pipe))
    del pipe
    assert denoiser() is None


@pytest.mark.parametrize(("shape", "ran"), CASES)
def test_so_is_one_with_a_limit_and_one_method_after_another(shape: Shape, ran: bool) -> None:
    pipe = without_collector(shape.build())
    for method, options in (
        ("default", {"max_cache_bytes": "1GB"}),
        ("interval", {"lowering": "replay"}),
        ("interval", {"sites": "model"}),
    ):
        dcache.enable(pipe, method, **options)
        if ran:
            shape.run(pipe)
    with dcache.enabled(pipe, "newton"):
        pass
    dcache.disable(pipe)
    denoiser = weakref.ref(shape.denoiser(pipe))
    del pipe
    assert denoiser() is None


def test_after_a_run_that_broke_down() -> None:
    pipe = dcache.enable(without_collector(PIXART.build()), "interval")

    def broken(*_: Any) -> None:
        raise ValueError("broken")

    hook = PIXART.blocks(pipe)[1].register_forward_hook(broken)
    with pytest.raises(ValueError, match="broken"):
        PIXART.run(pipe)
    hook.remove()
    dcache.disable(pipe)
    denoiser = weakref.ref(PIXART.denoiser(pipe))
    del pipe
    assert denoiser() is None


def test_after_an_enable_that_was_refused() -> None:
    pipe = without_collector(PIXART.build())
    refused = 0
    for options in ({"sites": "bracket:0"}, {"lowering": "none"}, {"sites": "block:99"}):
        # Not pytest.raises, which keeps the traceback and with it the pipeline.
        try:
            dcache.enable(pipe, "interval", **options)
        except DcacheError:
            refused += 1
    assert refused == 3
    denoiser = weakref.ref(PIXART.denoiser(pipe))
    del pipe
    assert denoiser() is None


def test_a_bare_module_disabled_in_its_own_call() -> None:
    toy = dcache.enable(without_collector(Toy()), methods.interval(interval=2))

    dcache.step(toy, 0)
    walk(toy, [0.0])
    hook = toy.register_forward_hook(lambda module, *_: dcache.disable(module) and None)
    dcache.step(toy, 1)
    walk(toy, [1.0])
    hook.remove()
    ref = weakref.ref(toy)
    del toy
    assert ref() is None


def test_a_pipeline_is_not_kept_alive_by_a_denoiser_that_another_one_shares() -> None:
    first = PIXART.build()
    second = type(first)(**first.components)
    dcache.enable(first, "interval")
    dcache.enable(second, "newton")
    PIXART.run(first)
    ref = weakref.ref(first)
    del first
    gc.collect()
    assert ref() is None
    PIXART.run(second)
    assert dcache.stats(second).predicted > 0
