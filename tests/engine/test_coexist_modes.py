"""torch's modes: inference mode and no_grad in turns, autograd on."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheWarning, Method, methods
from tests.cover import each_value
from tests.engine.coexistence_checks import ALWAYS, EVERY_2, anatomy, branches
from tests.pipelines import SHAPES, Shape, at_step_end

MODES: dict[str, Callable[[], Any]] = {"inference": torch.inference_mode, "no_grad": torch.no_grad}


METHODS = {
    "interval": EVERY_2,
    "newton": methods.newton(interval=2, order=1),
    "fbcache": methods.fbcache(threshold=0.3, max_run=2),
}
PAIRS = {
    f"{shape}-{name}": (shape, method)
    for shape in SHAPES.values()
    for name, method in METHODS.items()
    if shape.depth or name != "fbcache"
}


@pytest.mark.parametrize(*each_value(pair=PAIRS, first=[*MODES]))
def test_runs_under_one_mode_and_the_other(pair: tuple[Shape, Method], first: str) -> None:
    shape, method = pair
    pipe = shape.build()
    plain = shape.run(pipe)
    dcache.enable(pipe, method)
    expected = shape.run(pipe)
    dcache.enable(pipe, method)
    order = [first, *(m for m in MODES if m != first), first]
    for mode in order:
        with MODES[mode]():
            result = shape.run(pipe)
        assert result.is_inference() == (mode == "inference")
        assert torch.equal(result, expected)
        assert dcache.stats(pipe).predicted > 0
    for mode in order:
        with dcache.enabled(pipe, ALWAYS), MODES[mode]():
            assert torch.equal(shape.run(pipe), plain)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_the_mode_changes_from_step_to_step(shape: Shape) -> None:
    # Anchors, latents and what the sampler keeps come out of both modes and meet in both.
    guards: list[Any] = []

    def turn(i: int) -> None:
        if guards:
            guards.pop().__exit__(None, None, None)
        elif i < 6:
            guards.append(torch.inference_mode())
            guards[-1].__enter__()

    twin, pipe = shape.build(), shape.build()
    plain = shape.run(twin)
    method = methods.newton(interval=3, order=1)
    dcache.enable(twin, method)
    expected = shape.run(twin)
    dcache.enable(pipe, ALWAYS)
    assert torch.equal(shape.run(pipe, **at_step_end(shape, turn)), plain)
    dcache.enable(pipe, method)
    for _ in range(2):
        assert torch.equal(shape.run(pipe, **at_step_end(shape, turn)), expected)
        assert dcache.stats(pipe).predicted == 3 * branches(shape)
    assert not guards
    dcache.disable(twin)
    dcache.disable(pipe)
    assert anatomy(shape, pipe) == anatomy(shape, twin)


def recorded(shape: Shape, pipe: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of one call that the pipeline makes of its denoiser."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))

    handle = shape.denoiser(pipe).register_forward_pre_hook(note, with_kwargs=True)
    shape.run(pipe)
    handle.remove()
    return calls[3]


def gradients(shape: Shape, pipe: Any, call: tuple[tuple[Any, ...], dict[str, Any]]) -> list[torch.Tensor]:
    """The output of one call with autograd on, and gradients of weights inside and outside of blocks."""
    model = shape.denoiser(pipe)
    weights = [p for name, p in model.named_parameters() if "to_q" in name or "proj_out" in name]
    for weight in weights:
        weight.requires_grad_(True)
    with torch.enable_grad():
        args, kwargs = call
        output = model(*args, **kwargs)[0]
        found = torch.autograd.grad(output.square().sum(), weights)
    for weight in weights:
        weight.requires_grad_(False)
    return [output.detach(), *found]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_a_call_with_autograd_on_passes_through_and_says_so(shape: Shape) -> None:
    twin, pipe = shape.build(), shape.build()
    call = recorded(shape, twin)
    expected = gradients(shape, twin, call)
    assert len(expected) > 3
    assert all(bool(g.abs().sum() > 0) for g in expected)
    dcache.enable(pipe, EVERY_2)
    cached = shape.run(pipe)
    with pytest.warns(DcacheWarning, match=r"gradients are being recorded.*no_grad"):
        found = gradients(shape, pipe, call)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    # Once is enough.
    gradients(shape, pipe, call)
    assert dcache.stats(pipe).reasons["gradients"] == 2
    assert torch.equal(shape.run(pipe), cached)
    dcache.disable(pipe)
    assert anatomy(shape, pipe) == anatomy(shape, twin)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_autograd_in_the_middle_of_a_run_does_not_disturb_it(shape: Shape) -> None:
    # As guidance by a gradient does: between two steps the denoiser is asked once more, with autograd on.
    twin, pipe = shape.build(), shape.build()
    call = recorded(shape, twin)
    expected = gradients(shape, twin, call)
    found: list[list[torch.Tensor]] = []

    def ask(i: int) -> None:
        if i in (1, 2):
            found.append(gradients(shape, pipe, call))

    dcache.enable(pipe, EVERY_2)
    cached = shape.run(pipe)
    with pytest.warns(DcacheWarning, match="gradients are being recorded"):
        assert torch.equal(shape.run(pipe, **at_step_end(shape, ask)), cached)
    stats = dcache.stats(pipe)
    assert (stats.steps, stats.predicted) == (7, 3 * branches(shape))
    assert stats.reasons["gradients"] == 2
    assert all(torch.equal(a, b) for row in found for a, b in zip(row, expected, strict=True))
