"""Callbacks at the end of a step: they change latents, stop the run or raise, and dcache keeps its count."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import dcache
from tests.engine.coexistence_checks import ALWAYS, EVERY_2, Runs, anatomy, branches, skippable
from tests.pipelines import FLUX, PIXART, SD, SHAPES, WAN, Call, Shape, at_step_end

# PixArt's callback can neither change guidance nor stop the run.
MODERN = [FLUX, SD, WAN]
Act = Callable[[Any, int, torch.Tensor], torch.Tensor]


def with_latents(shape: Shape, act: Act) -> Call:
    """Call arguments of a run in which `act(pipe, i, latents)` gives the latents for the next step."""
    if shape is PIXART:

        def legacy(i: int, t: Any, latents: torch.Tensor) -> None:
            latents.copy_(act(None, i, latents))

        return {"callback": legacy, "callback_steps": 1}

    def callback(pipe: Any, i: int, t: Any, tensors: Call) -> Call:
        return {"latents": act(pipe, i, tensors["latents"])}

    return {"callback_on_step_end": callback}


def replaced(pipe: Any, i: int, latents: torch.Tensor) -> torch.Tensor:
    """Other latents, in memory of their own."""
    return latents * 0.9 + 0.05 * i if i in (1, 4) else latents


def in_place(pipe: Any, i: int, latents: torch.Tensor) -> torch.Tensor:
    """The same, written over the old ones."""
    return latents.copy_(replaced(pipe, i, latents))


def view(pipe: Any, i: int, latents: torch.Tensor) -> torch.Tensor:
    """The same, not contiguous."""
    twice = torch.stack([replaced(pipe, i, latents)] * 2, -1)
    return twice[..., 0]


@pytest.mark.parametrize("act", [replaced, in_place, view])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_latents_that_are_changed(shape: Shape, act: Act) -> None:
    twin, pipe = shape.build(), shape.build()
    plain = shape.run(twin, **with_latents(shape, act))
    assert not torch.equal(plain, shape.run(twin))
    dcache.enable(pipe, ALWAYS)
    assert torch.equal(shape.run(pipe, **with_latents(shape, act)), plain)
    dcache.enable(pipe, EVERY_2)
    cached = shape.run(pipe, **with_latents(shape, act))
    assert dcache.stats(pipe).predicted == 3 * branches(shape)
    assert not torch.equal(cached, plain)
    # However they are changed, an anchor does not change with them.
    assert torch.equal(shape.run(pipe, **with_latents(shape, replaced)), cached)
    dcache.disable(pipe)
    assert anatomy(shape, pipe) == anatomy(shape, twin)


def guide(low: float, high: float) -> Act:
    """Guidance changes twice, and never ends."""

    def act(pipe: Any, i: int, latents: torch.Tensor) -> torch.Tensor:
        if i in (1, 4):
            pipe._guidance_scale = low if i == 1 else high
        return latents

    return act


def test_guidance_that_is_changed() -> None:
    shape = SD
    # What the branches remember is taken before they are mixed, so the change takes part at once.
    twin, pipe = shape.build(), shape.build()
    plain = shape.run(twin, **with_latents(shape, guide(6.0, 2.0)))
    assert not torch.equal(plain, shape.run(twin))
    dcache.enable(pipe, ALWAYS)
    assert torch.equal(shape.run(pipe, **with_latents(shape, guide(6.0, 2.0))), plain)
    dcache.enable(pipe, EVERY_2)
    steady = shape.run(pipe)
    cached = shape.run(pipe, **with_latents(shape, guide(6.0, 2.0)))
    stats = dcache.stats(pipe)
    assert (stats.computed, stats.predicted) == (4 * branches(shape), 3 * branches(shape))
    assert (cached - plain).norm() < (steady - plain).norm()
    dcache.disable(pipe)
    assert anatomy(shape, pipe) == anatomy(shape, twin)


def stop_after(last: int) -> Act:
    """The run ends with this step, as a web interface's stop button ends it."""

    def act(pipe: Any, i: int, latents: torch.Tensor) -> torch.Tensor:
        pipe._interrupt = i >= last
        return latents

    return act


@pytest.mark.parametrize("last", [0, 1, 2, 5])
@pytest.mark.parametrize("shape", MODERN, ids=str)
def test_a_run_that_is_interrupted(shape: Shape, last: int) -> None:
    twin, pipe = shape.build(), shape.build()
    plain, whole = shape.run(twin, **with_latents(shape, stop_after(last))), shape.run(twin)
    dcache.enable(pipe, ALWAYS)
    assert torch.equal(shape.run(pipe, **with_latents(shape, stop_after(last))), plain)
    assert dcache.stats(pipe).steps == last + 1
    dcache.enable(pipe, EVERY_2)
    cached = shape.run(pipe)
    # It ends without a warning even where it had no time to predict anything.
    shape.run(pipe, **with_latents(shape, stop_after(last)))
    stats = dcache.stats(pipe)
    assert (stats.steps, stats.bytes_now) == (last + 1, 0)
    assert stats.computed == (last + 2) // 2 * branches(shape)
    assert stats.predicted == (last + 1) // 2 * branches(shape)
    assert torch.equal(shape.run(pipe), cached)
    dcache.disable(pipe)
    assert anatomy(shape, pipe) == anatomy(shape, twin)
    assert torch.equal(shape.run(pipe), whole)


class StopError(Exception):
    """Raised in mid-run."""


@pytest.mark.parametrize("last", [0, 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_a_callback_that_raises(shape: Shape, last: int) -> None:
    def act(i: int) -> None:
        if i == last:
            raise StopError

    twin, pipe = shape.build(), shape.build()
    dcache.enable(pipe, EVERY_2)
    cached = shape.run(pipe)
    for each in (twin, pipe):
        with pytest.raises(StopError):
            shape.run(each, **at_step_end(shape, act))
    assert dcache.stats(pipe).steps == last + 1
    # What was computed is still held: nobody said that the run is over. The next run frees it first.
    assert torch.equal(shape.run(pipe), cached)
    assert dcache.stats(pipe).bytes_now == 0
    with pytest.raises(StopError):
        shape.run(pipe, **at_step_end(shape, act))
    dcache.disable(pipe)
    assert anatomy(shape, pipe) == anatomy(shape, twin)
    assert torch.equal(shape.run(pipe), shape.run(twin))


@pytest.mark.parametrize("shape", MODERN, ids=str)
def test_caching_that_a_callback_switches_off_and_on(shape: Shape) -> None:
    def switch(pipe: Any, i: int, latents: torch.Tensor) -> torch.Tensor:
        if i == 1:
            dcache.disable(pipe)
        if i == 3:
            dcache.enable(pipe, EVERY_2)
        return latents

    twin, pipe = shape.build(), shape.build()
    plain = shape.run(twin)
    dcache.enable(pipe, EVERY_2)
    seen = Runs(skippable(shape, pipe))
    shape.run(pipe, **with_latents(shape, switch))
    # Steps 0 | 2, 3 | 4, 6 are computed, 1 and 5 are predicted.
    assert seen.stop() == [5 * branches(shape)] * len(seen.counts)
    dcache.disable(pipe)
    assert anatomy(shape, pipe) == anatomy(shape, twin)
    assert torch.equal(shape.run(pipe), plain)
