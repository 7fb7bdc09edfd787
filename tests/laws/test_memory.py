"""L8: the bytes reported are the bytes held, and the estimate is what a run comes to hold."""

import gc
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from torch import nn

import dcache
from dcache import Method, methods
from dcache.engine.session import Session, session_of
from tests.laws.product import PRESETS, Case, alternating
from tests.pipelines import SHAPES, Shape, at_step_end, before_step

HELD = [
    Case(shape, next(iter(shape.samplers)), guidance, name)
    for shape in SHAPES.values()
    for guidance in shape.guidance
    for name, preset in PRESETS.items()
    if guidance != "part" and preset.fits(shape, next(iter(shape.samplers)))
]
OPAQUE = (
    *(nn.Module, DiffusionPipeline, SchedulerMixin),
    *(type, ModuleType, FunctionType, BuiltinFunctionType, FrameType, CodeType),
    *(str, int, float),
)


def storages(tensors: list[torch.Tensor]) -> dict[int, int]:
    """Address -> bytes of the distinct storages."""
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


def reachable(root: Any) -> list[torch.Tensor]:
    """Every tensor that is kept alive by `root`, beside those of modules, samplers and pipelines."""
    seen: set[int] = set()
    found: list[torch.Tensor] = []
    todo = [root]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, OPAQUE):
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            found.append(thing)
        else:
            todo += gc.get_referents(thing)
    return found


def watched(shape: Shape, pipe: Any) -> Session:
    """The session of a pipeline's denoiser."""
    session = session_of(shape.denoiser(pipe))
    assert session is not None
    return session


@pytest.mark.parametrize("case", alternating(HELD, 0))
def test_bytes_held_are_those_of_the_storages_in_the_histories(case: Case) -> None:
    shape = case.shape
    pipe = dcache.enable(case.build(), case.method)
    session = watched(shape, pipe)
    seen: list[tuple[int, int, int]] = []

    def look() -> None:
        histories = storages(reachable(session.state.branches))
        # What guidance is learned from is the evaluation's own and dropped in the step that is about to come.
        guidance = session.binding.guidance
        passing = storages(guidance.watched()) if guidance is not None else {}
        everything = {k: v for k, v in storages(reachable(session)).items() if k not in passing}
        seen.append((dcache.stats(pipe).bytes_held, sum(histories.values()), sum(everything.values())))

    before_step(pipe, look)
    case.run(pipe)
    assert seen[-1][0] > 0
    assert [reported for reported, _, _ in seen] == [held for _, held, _ in seen]
    # Nothing the size of an activation is kept outside the histories either.
    assert [held for _, held, _ in seen] == [everything for _, _, everything in seen]
    after = dcache.stats(pipe)
    assert after.bytes_held == max(reported for reported, _, _ in seen)
    assert after.bytes_now == 0
    assert storages(reachable(session)) == {}


@pytest.mark.parametrize("case", alternating(HELD, 1))
def test_the_estimate_is_what_a_run_holds_at_its_end(case: Case) -> None:
    shape = case.shape
    pipe = case.build()
    call = shape.arguments(case.guidance)
    estimate = dcache.memory_estimate(pipe, case.method, **call)
    assert not dcache.disable(pipe).__dict__.get("maybe_free_model_hooks")
    dcache.enable(pipe, case.method)
    held: list[int] = []
    before_step(pipe, lambda: held.append(dcache.stats(pipe).bytes_held))
    case.run(pipe)
    if case.method.uncond_from:
        # Less is remembered in the end where only half of the batch is run, or once it is known which half.
        assert held[-1] <= max(held) <= estimate
    else:
        assert held[-1] == estimate


@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_nothing_is_held_after_the_last_step_while_the_picture_is_decoded(shape: Shape) -> None:
    pipe = dcache.enable(shape.build(), "newton", interval=2)
    held: list[int] = []
    shape.run(pipe, **at_step_end(shape, lambda i: held.append(dcache.stats(pipe).bytes_now)))
    assert all(held[:-1])
    assert held[-1] == 0
    assert dcache.stats(pipe).bytes_held >= max(held) > 0


@pytest.mark.parametrize(
    ("method", "tensors"),
    [
        (methods.interval(sites="trunk"), 1),
        (methods.newton(order=1, sites="trunk", clock="step"), 2),
        (methods.newton(order=2, sites="trunk", clock="step", codec="delta:bfloat16"), 1.5),
        (methods.interval(sites=["attn", "mlp"]), 6),
        (methods.taylorseer(order=1), 18),
        (methods.interval(sites="block"), 3),
    ],
    ids=lambda v: v.describe() if isinstance(v, Method) else str(v),
)
def test_a_history_costs_what_it_should(method: Method, tensors: float) -> None:
    # PixArt, guidance off: 16 tokens of width 16 in float32, three blocks of three sublayers.
    shape = SHAPES["pixart"]
    pipe = shape.build()
    call = shape.arguments("off")
    assert dcache.memory_estimate(pipe, method, **call) == tensors * 16 * 16 * 4
