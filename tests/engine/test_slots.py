"""A new anchor is written into the memory of the one it replaces, and the model never sees that memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import dcache
from dcache import methods
from dcache.cache.codec import Codec
from dcache.cache.history import tensors_of
from dcache.engine.session import Session, session_of
from tests.engine.tiny_models import Double, Toy, integers, walk
from tests.pipelines import SHAPES, before_step

PIXART = SHAPES["pixart"]
METHODS = {
    "value": methods.taylorseer(order=1, interval=2, warmup=2),
    "delta": methods.newton(order=1, interval=2, clock="step"),
    "delta:bfloat16": methods.newton(order=1, interval=2, clock="step", codec="delta:bfloat16"),
    "delta:int8": methods.newton(order=1, interval=2, clock="step", codec="delta:int8"),
    "model": methods.interval(interval=2, sites="model"),
}


def session_on(pipe: Any) -> Session:
    """The session of a PixArt pipeline's denoiser."""
    session = session_of(PIXART.denoiser(pipe))
    assert session is not None
    return session


def addresses(session: Session) -> set[int]:
    """Where everything that is held lies."""
    return {
        t.untyped_storage().data_ptr() for branch in session.state.branches.values() for t in branch.tensors()
    }


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_once_full_a_history_keeps_its_memory_to_the_end_of_the_run(method: dcache.Method) -> None:
    pipe = dcache.enable(PIXART.build(), method)
    session = session_on(pipe)
    seen: list[set[int]] = []
    before_step(pipe, lambda: seen.append(addresses(session)))
    PIXART.run(pipe, num_inference_steps=9)
    full = [places for places in seen if len(places) == len(seen[-1])]
    assert len(full) >= 5
    assert all(places == seen[-1] for places in full)
    assert addresses(session) == set()


@contextmanager
def writes_counted() -> Iterator[list[bool]]:
    """For every anchor stored whether it was given the memory of an older one."""
    found: list[bool] = []
    close = Codec.close

    def counted(codec: Codec, opened: Any, y: torch.Tensor, slot: Any = None) -> Any:
        z = close(codec, opened, y, slot)
        found.append(z is slot)
        return z

    Codec.close = counted  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Codec.close = close  # type: ignore[method-assign]


@pytest.mark.parametrize("name", ["value", "delta", "delta:int8"])
def test_only_the_first_anchors_are_given_memory(name: str) -> None:
    pipe = dcache.enable(PIXART.build(), METHODS[name])
    with writes_counted() as reused:
        PIXART.run(pipe, num_inference_steps=9)
    sites = 9 if name == "value" else 1
    assert not any(reused[: 2 * sites])
    assert all(reused[2 * sites :])
    assert len(reused) > 3 * sites


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_model_and_the_pipeline_never_see_a_slot(method: dcache.Method) -> None:
    pipe = PIXART.build()
    given: list[torch.Tensor] = []
    for module in PIXART.denoiser(pipe).modules():
        module.register_forward_pre_hook(lambda _, args, kwargs: given.extend(
            v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)
        ), with_kwargs=True)  # fmt: skip
        module.register_forward_hook(lambda _, __, output: given.append(
            output if isinstance(output, torch.Tensor) else output[0]
        ))  # fmt: skip
    dcache.enable(pipe, method)
    session = session_on(pipe)
    shared: list[set[int]] = []

    def look() -> None:
        shared.append(addresses(session) & {t.untyped_storage().data_ptr() for t in given})
        given.clear()

    before_step(pipe, look)
    PIXART.run(pipe, num_inference_steps=9)
    assert shared
    assert all(not places for places in shared)


class Breaking(Double):
    """Doubles, writes over its input like some blocks do, and breaks down where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.breaks = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.breaks:
            x.fill_(float("nan"))
            raise ValueError("broken")
        return super().forward(x)


def anchors(session: Session) -> list[tuple[list[int], list[float]]]:
    """Of every history the evaluations of its anchors, and the value each is filled with."""
    return [
        (list(h.steps), [float(t.flatten()[0]) for leaves in h.leaves for t in tensors_of(leaves)])
        for branch in session.state.branches.values()
        for h in branch.histories.values()
    ]


@pytest.mark.parametrize("sites", ["trunk", "model"])
def test_an_anchor_whose_site_broke_down_is_no_anchor(sites: str) -> None:
    block = Breaking()
    toy = Toy([Double(), block, Double()])
    method = methods.newton(order=1, interval=1, sites=sites, codec="delta", clock="step")
    dcache.enable(toy, method)
    session = session_of(toy)
    assert session is not None
    for i in (0, 1):
        dcache.step(toy, i)
        walk(toy, [float(i)])
    # (1 + t) times 8, less what came in: less 1 + t at the trunk, less 1 at the model.
    changes = [7.0, 14.0] if sites == "trunk" else [7.0, 15.0]
    assert anchors(session) == [([0, 1], changes)]
    block.breaks = True
    dcache.step(toy, 2)
    with pytest.raises(ValueError, match="broken"):
        walk(toy, [2.0])
    # The oldest one's memory holds the negated input now, and nobody takes it for an anchor.
    assert [(steps, values[:1]) for steps, values in anchors(session)] == [([1], changes[1:])]
    assert dcache.stats(toy).bytes_now == 2 * 8 * 4
    block.breaks = False
    dcache.step(toy, 3)
    walk(toy, [3.0])
    assert anchors(session)[0] == ([1, 3], [changes[1], 21.0 + 7.0 if sites == "trunk" else 31.0])


def test_what_is_predicted_after_a_breakdown_stands_on_whole_anchors_only() -> None:
    block = Breaking()
    toy = Toy([Double(), block, Double()])
    dcache.enable(toy, methods.interval(interval=3, codec="delta", warmup=1))
    dcache.step(toy, 0)
    assert integers(walk(toy, [0.0])) == [8.0]
    for i in (1, 2):
        dcache.step(toy, i)
        # The change of evaluation 0 on the input of now.
        assert integers(walk(toy, [float(i)])) == [1.0 + i + 7.0]
    block.breaks = True
    dcache.step(toy, 3)
    with pytest.raises(ValueError, match="broken"):
        walk(toy, [3.0])
    block.breaks = False
    dcache.step(toy, 4)
    assert integers(walk(toy, [4.0])) == [40.0]
    assert dcache.stats(toy).reasons["no_history"] == 1


@pytest.mark.parametrize("codec", ["value", "delta", "delta:int8"])
def test_an_inference_mode_that_ends_in_mid_run_does_no_harm(codec: str) -> None:
    toy = Toy()
    dcache.enable(toy, methods.newton(order=1, interval=2, codec=codec, clock="step", last=False))
    outputs = []
    for i in range(8):
        dcache.step(toy, i)
        with torch.inference_mode(i % 3 != 1):
            outputs.append(toy(torch.ones(1, 2, 4), 1.0).clone())
    torch.testing.assert_close(outputs, [torch.full((1, 2, 4), 16.0)] * 8)
    assert dcache.stats(toy).predicted > 0
