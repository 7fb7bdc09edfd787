"""`max_cache_bytes`: never exceeded, said once, and a run like every other."""

from __future__ import annotations

import gc
import re
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest.mock import patch

import pytest
import torch

import dcache
from dcache import DcacheError, DcacheWarning, Method, methods
from dcache.cache.codec import Codec
from dcache.cache.history import tensors_of
from dcache.engine.pipeline import sessions_of
from dcache.engine.region import Region
from tests.cover import each_value
from tests.engine.tiny_models import Double, Toy, integers, walk
from tests.families.video import WAN22
from tests.laws.product import PRESETS
from tests.pipelines import SHAPES, Shape, before_step

PIXART = SHAPES["pixart"]
# One anchor of a PixArt sublayer or trunk: 16 tokens of width 16, in float32 and in int8 with one scale.
ONE, PACKED = 16 * 16 * 4, 16 * 16 + 4
SUBLAYERS = methods.taylorseer(order=2, interval=3, warmup=2)


@contextmanager
def watched(pipe: Any) -> Iterator[list[int]]:
    """Bytes held by all denoisers after every anchor and before every step."""
    seen: list[int] = []
    remember = Region.remember

    def look() -> None:
        seen.append(sum(session.state.bytes_now() for session in sessions_of(pipe).values()))

    def remembered(*args: Any) -> None:
        remember(*args)
        look()

    Region.remember = remembered  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        Region.remember = remember  # type: ignore[method-assign]


def told(
    pipe: Any, shape: Shape, guidance: str = "", **over: Any
) -> tuple[torch.Tensor, list[int], list[str]]:
    """The latents of one call, the bytes that were seen, and what was warned about."""
    with warnings.catch_warnings(record=True) as caught, watched(pipe) as seen:
        warnings.simplefilter("always")
        came = shape.run(pipe, guidance, **over)
    return came, seen, [str(w.message) for w in caught if issubclass(w.category, DcacheWarning)]


@pytest.mark.parametrize("limit", [0, -5, True, 2.5, "", "many", "5 parsecs", "-1MB", "0", "1e9"])
def test_other_limits_are_refused_and_change_nothing(limit: Any) -> None:
    toy = dcache.enable(Toy(), "interval")
    with pytest.raises(DcacheError, match=r"max_cache_bytes must be .*'512MB'"):
        dcache.enable(toy, "interval", max_cache_bytes=limit)
    assert dcache.stats(toy).steps == 0


@pytest.mark.parametrize(
    ("limit", "holds", "says"),
    [
        (27 * ONE, 27 * ONE, ""),
        (27 * ONE - 1, 18 * ONE, "order=1"),
        (18 * ONE - 1, 9 * ONE, "order=0"),
        (9 * ONE - 1, 9 * ONE // 2, "order=0.*codec='value:bfloat16'"),
        (9 * ONE // 2 - 1, 9 * PACKED, "order=0.*codec='value:int8'"),
        (9 * PACKED - 1, 2 * ONE, "order=1.*sites='auto'"),
        (2 * ONE - 1, ONE, "order=0.*sites='auto'"),
        (ONE - 1, ONE // 2, "codec='value:bfloat16'"),
        (ONE // 2 - 1, PACKED, "codec='value:int8'"),
    ],
)
def test_order_goes_first_then_precision_then_granularity(limit: int, holds: int, says: str) -> None:
    pipe = dcache.enable(PIXART.build(), SUBLAYERS, max_cache_bytes=limit)
    first, seen, warned = told(pipe, PIXART, "off", num_inference_steps=9)
    assert max(seen) <= limit
    assert seen[-1] == dcache.stats(pipe).bytes_held == holds
    assert dcache.stats(pipe).predicted > 0
    if not says:
        assert warned == []
        return
    (text,) = warned
    assert f"would need {27 * ONE:,} bytes; it is lowered to" in text
    assert text.endswith(f"which needs {holds:,}")
    assert re.search(says, text), text
    # Later runs begin as lowered, and are told nothing new.
    second, again, warned = told(pipe, PIXART, "off", num_inference_steps=9)
    assert torch.equal(first, second)
    assert max(again) <= limit
    assert warned == []
    replay = dcache.enable(PIXART.build(), dcache.trace(pipe))
    assert torch.equal(PIXART.run(replay, "off", num_inference_steps=9), first)


NAMES = (
    "newton-2-timestep",
    "taylorseer",
    "interval-blocks",
    "foca",
    "pab",
    "fbcache",
    "easycache",
    "deepcache",
)
MANY = {
    f"{shape}-{guidance}-{name}": (shape, guidance, PRESETS[name].method())
    for shape in SHAPES.values()
    for guidance in shape.guidance
    for name in NAMES
    if guidance in ("batched", "sequential") and PRESETS[name].fits(shape, next(iter(shape.samplers)))
}


@pytest.mark.parametrize(*each_value(run=MANY, part=(0.6, 0.2)))
def test_no_run_holds_more_at_any_time(run: tuple[Shape, str, Method], part: float) -> None:
    shape, guidance, method = run
    limit = int(part * dcache.memory_estimate(shape.build(), method, **shape.arguments(guidance)))
    pipe = dcache.enable(shape.build(), method, max_cache_bytes=limit)
    with watched(pipe) as seen:
        if method.probe is not None or (method.fixed and part < 0.25):
            # A probe is held beside what it compares with, and sites that a rule knows by name stay.
            with pytest.raises(
                DcacheError, match=f"max_cache_bytes={limit:,} is too little for {method.name}"
            ):
                told(pipe, shape, guidance)
            assert dcache.stats(pipe).bytes_now == 0
        else:
            first, _, warned = told(pipe, shape, guidance)
            assert warned
            second, _, warned = told(pipe, shape, guidance)
            assert warned == []
            assert torch.equal(first, second)
            replay = dcache.enable(shape.build(), dcache.trace(pipe))
            assert torch.equal(shape.run(replay, guidance), first)
    assert 0 <= max(seen, default=0) <= limit
    assert dcache.stats(pipe).bytes_held <= limit


def test_where_nothing_is_left_to_give_up_the_error_says_what_is_needed() -> None:
    pipe = dcache.enable(PIXART.build(), SUBLAYERS, max_cache_bytes=200)
    with pytest.raises(
        DcacheError, match=r"max_cache_bytes=200 is too little for taylorseer.* needs about 260 bytes"
    ):
        PIXART.run(pipe, "off")
    assert dcache.stats(pipe).bytes_now == 0
    # It is no less loud the next time, and what it says is enough.
    with pytest.raises(DcacheError, match="needs about 260 bytes"):
        PIXART.run(pipe, "off")
    dcache.enable(pipe, SUBLAYERS, max_cache_bytes=260)
    _, seen, warned = told(pipe, PIXART, "off")
    assert max(seen) == 260
    assert len(warned) == 1


def test_sites_that_a_rule_knows_by_name_stay() -> None:
    pipe = dcache.enable(PIXART.build(), PRESETS["pab"].method(), max_cache_bytes=ONE)
    with pytest.raises(DcacheError, match="too little for pab"):
        PIXART.run(pipe, "off")


def test_two_denoisers_share_one_limit() -> None:
    method = methods.newton(order=1, interval=2, clock="step", warmup=1)
    pipe = dcache.enable(WAN22.build(), method)
    came, free, _ = told(pipe, WAN22)
    # Where the second denoiser takes over, both hold something.
    full = free[-1]
    assert max(free) > full > 0
    for limit in (full, full - 1, full // 3):
        pipe = dcache.enable(WAN22.build(), method, max_cache_bytes=limit)
        limited, seen, warned = told(pipe, WAN22)
        assert 0 < max(seen) <= limit
        # What the first one remembers is of no more use by then.
        assert torch.equal(limited, came) == (limit == full)
        assert bool(warned) == (limit < full)


def test_a_denoiser_whose_turn_is_over_gives_up_no_more() -> None:
    # Both are lowered by one step, each in its turn; the next run is like the first.
    method = PRESETS["teacache"].method()
    pipe = dcache.enable(WAN22.build(), method, max_cache_bytes=4300)
    first, _, warned = told(pipe, WAN22, "sequential")
    assert warned
    assert {s.method.codec for s in sessions_of(pipe).values()} == {"delta:bfloat16"}
    second, _, warned = told(pipe, WAN22, "sequential")
    assert torch.equal(first, second)
    assert warned == []


def test_a_run_of_other_shapes_is_asked_for_all_again() -> None:
    pipe = dcache.enable(PIXART.build(), SUBLAYERS, max_cache_bytes=27 * ONE)
    _, seen, warned = told(pipe, PIXART, "batched")
    assert max(seen) == 18 * ONE
    assert len(warned) == 1
    _, seen, warned = told(pipe, PIXART, "off")
    assert max(seen) == 27 * ONE
    assert warned == []


def test_in_a_hand_written_loop_what_comes_out_is_what_the_lower_order_gives() -> None:
    toy = dcache.enable(
        Toy(), methods.newton(order=1, interval=3, warmup=2, clock="step"), max_cache_bytes=8 * 4
    )
    dcache.step(toy, 0)
    with pytest.warns(DcacheWarning, match="newton.*would need 64 bytes; it is lowered to newton.*order=0"):
        outputs = walk(toy, [0.0])
    for i in range(1, 5):
        dcache.step(toy, i)
        outputs += walk(toy, [float(i)])
    # delta: 8 (1 + t) - (1 + t) of the newest anchor, on the input of now.
    assert integers(outputs) == [8.0, 16.0, 3.0 + 14.0, 4.0 + 14.0, 40.0]


def test_what_was_remembered_is_lowered_with_the_method() -> None:
    # A second branch comes late: the first one's two anchors become one, narrower.
    toy = dcache.enable(
        Toy(), methods.newton(order=1, interval=1, clock="step", warmup=0), max_cache_bytes=2 * 8 * 4 + 8
    )
    session = sessions_of(toy)[""]
    for i in range(3):
        dcache.step(toy, i, branch="a")
        walk(toy, [float(i)])
    kept = session.state.branches["a"].histories["trunk"]
    assert kept.steps == [1, 2]
    dcache.step(toy, 2, branch="b")
    with pytest.warns(DcacheWarning, match="lowered to .*order=0"):
        walk(toy, [2.0])
    assert kept.steps == [2]
    assert [t.flatten()[0].item() for leaves in kept.leaves for t in tensors_of(leaves)] == [21.0]
    assert session.state.bytes_now() <= 2 * 8 * 4 + 8


@contextmanager
def anchors_made() -> Iterator[list[weakref.ref[torch.Tensor]]]:
    """Every tensor that a codec makes."""
    made: list[weakref.ref[torch.Tensor]] = []
    close = Codec.close

    def noted(*args: Any) -> Any:
        stored = close(*args)
        made.extend(weakref.ref(t) for t in tensors_of((stored,)))
        return stored

    Codec.close = noted  # type: ignore[method-assign]
    try:
        yield made
    finally:
        Codec.close = close  # type: ignore[method-assign]


# The second one's sites cannot be lowered: the run ends with an error.
@pytest.mark.parametrize(("name", "limit"), [("newton-1-step", 27 * ONE), ("pab", 2 * ONE)])
def test_no_anchor_outlives_its_run(name: str, limit: int) -> None:
    pipe = dcache.enable(PIXART.build(), PRESETS[name].method(), max_cache_bytes=limit)
    with anchors_made() as made, suppress(DcacheError):
        told(pipe, PIXART, "off")
    gc.collect()
    assert made
    assert [ref() for ref in made if ref() is not None] == []


class Growing(Double):
    """Has one token more in every call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        more = super().forward(x)
        return torch.cat([more] * self.runs, dim=1)


def test_memory_that_is_too_small_for_a_new_anchor_is_asked_for() -> None:
    method = methods.interval(interval=1, warmup=0, codec="value")
    # The self-check replays the first call: what is computed has 2, 4, 6 tokens of 4 numbers.
    toy = dcache.enable(Toy([Double(), Growing()]), method, max_cache_bytes=4 * 4 * 4)
    session = sessions_of(toy)[""]
    for i in range(2):
        dcache.step(toy, i)
        walk(toy, [float(i)])
        assert session.state.bytes_now() == (i + 1) * 2 * 4 * 4
    dcache.step(toy, 2)
    with pytest.warns(DcacheWarning, match="lowered to .*bfloat16"):
        walk(toy, [2.0])
    assert session.state.bytes_now() <= 4 * 4 * 4


def test_what_a_breakdown_left_is_not_kept_beside_narrower_anchors() -> None:
    block = Double()
    toy = Toy([Double(), block])
    dcache.enable(toy, methods.interval(interval=1, warmup=0, codec="delta"), max_cache_bytes=2 * 8 * 4 - 1)
    session = sessions_of(toy)[""]
    dcache.step(toy, 0, branch="a")
    walk(toy, [0.0])
    dcache.step(toy, 1, branch="a")
    with (
        patch.object(Double, "forward", side_effect=ValueError("broken")),
        pytest.raises(ValueError, match="broken"),
    ):
        walk(toy, [1.0])
    assert session.state.bytes_now() == 8 * 4
    dcache.step(toy, 1, branch="b")
    with pytest.warns(DcacheWarning, match="bfloat16"):
        walk(toy, [1.0])
    # Nothing of the first branch is left, and the second one's anchor has two bytes for each number.
    assert session.state.bytes_now() == 8 * 2


def test_nothing_is_left_of_a_limit_when_it_is_taken_off() -> None:
    pipe = dcache.enable(PIXART.build(), SUBLAYERS, max_cache_bytes=4 * ONE)
    told(pipe, PIXART, "off")
    dcache.disable(pipe)
    assert torch.equal(PIXART.run(pipe, "off"), PIXART.run(PIXART.build(), "off"))


def test_what_the_budget_keeps_of_the_first_calls_is_let_go_of() -> None:
    pipe = dcache.enable(PIXART.build(), SUBLAYERS, max_cache_bytes="1GB")
    memory = sessions_of(pipe)["transformer"].memory
    assert memory is not None
    kept: list[int] = []
    before_step(pipe, lambda: kept.append(len(memory.first_calls)))
    PIXART.run(pipe, "off")
    assert kept[0] == 1
    assert not any(kept[1:])
    assert not memory.first_calls
