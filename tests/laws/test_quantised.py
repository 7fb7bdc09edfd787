"""The laws with anchors in one byte: bytes, replays, streams, and what comes out beside the plain codec."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import dcache
from dcache import Method
from dcache.engine.session import session_of
from dcache.kernels.packed import Packed
from tests.laws.product import PRESETS
from tests.pipelines import SHAPES, Shape, before_step

NAMES = {
    "int8": (
        "newton-1-logsnr",
        "taylorseer",
        "foca-trunk",
        "interval-model",
        "tgate",
        "fastercache",
        "dbcache",
    ),
    "fp8": ("newton-1-logsnr", "taylorseer"),
}


def packed(shape: Shape, name: str, store: str) -> Method:
    """A preset with its own frame, in one byte."""
    method = PRESETS[name].method()
    usual = "delta" if shape.depth and method.sites == ("auto",) else "value"
    return replace(method, codec=f"{(method.codec or usual).partition(':')[0]}:{store}")


CASES = [
    pytest.param(shape, packed(shape, name, store), id=f"{shape}-{name}-{store}")
    for shape in SHAPES.values()
    for store, names in NAMES.items()
    for name in names
    if PRESETS[name].fits(shape, next(iter(shape.samplers)))
]


def packed_in(pipe: object, shape: Shape) -> list[Packed]:
    """Every packed anchor that is held."""
    session = session_of(shape.denoiser(pipe))
    assert session is not None
    histories = [h for b in session.state.branches.values() for h in b.histories.values()]
    return [leaf for h in histories for leaves in h.leaves for leaf in leaves if isinstance(leaf, Packed)]


@pytest.mark.parametrize(("shape", "method"), CASES)
def test_a_run_with_packed_anchors_is_near_the_plain_one_and_its_replay_is_it(
    shape: Shape, method: Method
) -> None:
    plain = dcache.enable(shape.build(), replace(method, codec=(method.codec or "").partition(":")[0]))
    close = shape.run(plain)
    full = dcache.stats(plain).bytes_held
    pipe = dcache.enable(shape.build(), method)
    seen: list[int] = []
    before_step(pipe, lambda: seen.append(len(packed_in(pipe, shape))))
    came = shape.run(pipe)
    assert dcache.stats(pipe).predicted > 0
    assert max(seen) > 0
    if not method.probe and not method.uncond_from:
        # float32 is four bytes; one byte and a scale for every row of at least 64.
        assert dcache.stats(pipe).bytes_held <= full * (1 / 4 + 1 / 64) + 4
    assert 0.0 < float((came - close).norm() / close.norm()) < (0.05 if "int8" in str(method.codec) else 0.2)
    again = dcache.enable(shape.build(), dcache.trace(pipe))
    assert torch.equal(shape.run(again), came)


@pytest.mark.parametrize("store", ["int8", "fp8"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_the_estimate_is_what_packed_anchors_hold(shape: Shape, store: str) -> None:
    method = replace(PRESETS["newton-1-logsnr"].method(), codec=f"value:{store}")
    estimate = dcache.memory_estimate(shape.build(), method, **shape.arguments())
    pipe = dcache.enable(shape.build(), method)
    held: list[int] = []
    before_step(pipe, lambda: held.append(dcache.stats(pipe).bytes_now))
    shape.run(pipe)
    assert held[-1] == estimate > 0
