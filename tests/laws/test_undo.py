"""L2: what enabling puts on a pipeline, disabling takes off again; the state dict never changes."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

import dcache
from dcache import methods
from dcache.engine.session import session_of
from tests.laws.product import PRESETS
from tests.pipelines import SHAPES, Shape, at_step_end

# One preset per lowering: trunk or bracket, sublayers, model, probe.
WAYS = ("interval", "taylorseer", "interval-model", "interval-blocks", "fbcache", "deepcache-2")
PAIRS = [
    pytest.param(shape, name, id=f"{shape}-{name}")
    for shape in SHAPES.values()
    for name in WAYS
    if PRESETS[name].fits(shape, "")
]


class StopError(Exception):
    """Raised in mid-run."""


def anatomy(shape: Shape, pipe: Any) -> dict[str, dict[str, Any]]:
    """Every attribute of the pipeline, its sampler and its modules: type, and what containers contain."""
    things = {"pipe": pipe, "sampler": pipe.scheduler}
    things |= {f"module {name}": module for name, module in shape.denoiser(pipe).named_modules()}
    return {
        name: {key: _describe(value) for key, value in vars(thing).items()} for name, thing in things.items()
    }


def _describe(value: Any) -> Any:
    kind = type(value).__qualname__
    if isinstance(value, dict):
        return kind, sorted(map(str, value))
    if isinstance(value, list | tuple | set):
        return kind, len(value)
    return kind


def weights(shape: Shape, pipe: Any) -> dict[str, tuple[int, torch.Tensor]]:
    """The state dict: keys, memory, values."""
    return {k: (v.data_ptr(), v.clone()) for k, v in shape.denoiser(pipe).state_dict().items()}


def unchanged(before: dict[str, tuple[int, torch.Tensor]], now: dict[str, tuple[int, torch.Tensor]]) -> bool:
    """Same keys, memory and bits; Lumina's `pad_token` is never initialised and may hold NaN."""
    return list(before) == list(now) and all(
        before[k][0] == now[k][0] and torch.equal(bits(before[k][1]), bits(now[k][1])) for k in before
    )


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor."""
    return tensor.contiguous().flatten().view(torch.uint8)


def stop_at(shape: Shape, step: int) -> dict[str, Any]:
    """Call arguments of a run that is interrupted."""

    def act(i: int) -> None:
        if i == step:
            raise StopError

    return at_step_end(shape, act)


def calls_nothing(shape: Shape, pipe: Any) -> None:
    """No run at all."""


def calls_once(shape: Shape, pipe: Any) -> None:
    """One whole run."""
    shape.run(pipe)


def calls_and_raises(shape: Shape, pipe: Any) -> None:
    """One run, and one that dies."""
    shape.run(pipe)
    with pytest.raises(StopError):
        shape.run(pipe, **stop_at(shape, 3))


# What dies has run once before.
@pytest.mark.parametrize(
    "use", [calls_nothing, pytest.param(calls_once, marks=pytest.mark.slow), calls_and_raises]
)
@pytest.mark.parametrize(("shape", "preset"), PAIRS)
def test_nothing_is_left_behind(shape: Shape, preset: str, use: Callable[[Shape, Any], None]) -> None:
    twin, pipe = shape.build(), shape.build()
    before = weights(shape, pipe)
    use(shape, twin)
    dcache.enable(pipe, PRESETS[preset].method())
    session = weakref.ref(session_of(shape.denoiser(pipe)))
    use(shape, pipe)
    assert unchanged(before, weights(shape, pipe))
    assert dcache.disable(pipe) is pipe
    assert anatomy(shape, pipe) == anatomy(shape, twin)
    assert unchanged(before, weights(shape, pipe))
    gc.collect()
    assert session() is None
    assert torch.equal(shape.run(pipe), shape.run(twin))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_the_scope_ends_when_its_block_raises(shape: Shape) -> None:
    twin, pipe = shape.build(), shape.build()
    for each in (twin, pipe):
        with pytest.raises(StopError), dcache.enabled(each) if each is pipe else each.progress_bar(total=1):
            shape.run(each, **stop_at(shape, 2))
    assert anatomy(shape, pipe) == anatomy(shape, twin)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_a_refused_enable_changes_nothing(shape: Shape) -> None:
    twin, pipe = shape.build(), shape.build()
    with pytest.raises(dcache.DcacheError, match="out of range"):
        dcache.enable(pipe, methods.interval(sites="block:77" if shape.depth else "bracket:77"))
    assert anatomy(shape, pipe) == anatomy(shape, twin)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_enabling_twice_is_taken_off_by_disabling_once(shape: Shape) -> None:
    twin, pipe = shape.build(), shape.build()
    dcache.enable(dcache.enable(pipe, "interval"), "taylorseer")
    assert dcache.stats(pipe).steps == 0
    dcache.disable(dcache.disable(pipe))
    assert anatomy(shape, pipe) == anatomy(shape, twin)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_a_bare_denoiser_gets_its_own_call_back(shape: Shape) -> None:
    twin, pipe = shape.build(), shape.build()
    model = shape.denoiser(pipe)
    assert dcache.disable(dcache.enable(model, "interval")) is model
    assert anatomy(shape, pipe) == anatomy(shape, twin)
