"""Tables hold no more than their weights, and no more than a limit that they share with histories."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import dcache
from dcache import DcacheWarning, methods
from tests.pipelines import FLUX, WAN, Shape, before_step
from tests.time_memo.nets import draw, net


def tables_of(pipe: Any) -> int:
    return dcache.memo_report(pipe).table_bytes


@pytest.mark.parametrize("first", [True, False], ids=["memo first", "method first"])
@pytest.mark.parametrize("shape", [WAN, FLUX], ids=str)
def test_tables_and_histories_together_stay_within_the_limit(shape: Shape, first: bool) -> None:
    expected = shape.run(dcache.enable(shape.build(), "newton", interval=2))
    histories = dcache.memory_estimate(shape.build(), "newton", interval=2, **shape.arguments())
    free = dcache.memo(shape.build())
    for _ in range(2):
        shape.run(free)
    # Room for the histories, and for a third of what the tables would hold.
    limit = histories + tables_of(free) // 3
    pipe = shape.build()
    if first:
        dcache.memo(pipe)
        # Full tables, from before there was a limit.
        shape.run(pipe), shape.run(pipe)
    dcache.enable(pipe, "newton", interval=2, max_cache_bytes=limit)
    if not first:
        dcache.memo(pipe)
    seen: list[int] = []
    before_step(pipe, lambda: seen.append(dcache.stats(pipe).bytes_now + tables_of(pipe)))
    with warnings.catch_warnings():
        # Nothing is lowered: histories come before tables.
        warnings.simplefilter("error", DcacheWarning)
        for _ in range(3):
            assert torch.equal(shape.run(pipe), expected)
    assert max(seen) <= limit
    assert dcache.memo_report(pipe).hits > 0
    assert 0 < tables_of(pipe) <= limit - histories
    dcache.disable(pipe)


def test_without_room_for_tables_all_is_computed() -> None:
    histories = dcache.memory_estimate(WAN.build(), "newton", interval=2, **WAN.arguments())
    pipe = dcache.enable(WAN.build(), "newton", interval=2, max_cache_bytes=histories, memo="cpu")
    expected = dcache.enable(WAN.build(), "newton", interval=2)
    for _ in range(3):
        assert torch.equal(WAN.run(pipe), WAN.run(expected))
    assert tables_of(pipe) == 0
    assert dcache.memo_report(pipe).bytes_away == 0


def test_histories_that_come_later_push_tables_out() -> None:
    pipe = dcache.memo(WAN.build())
    WAN.run(pipe), WAN.run(pipe)
    full = tables_of(pipe)
    histories = dcache.memory_estimate(WAN.build(), "newton", interval=2, **WAN.arguments())
    dcache.enable(pipe, "newton", interval=2, max_cache_bytes=histories + full - 1)
    WAN.run(pipe)
    assert 0 < tables_of(pipe) < full


@pytest.mark.parametrize("shape", [WAN, FLUX], ids=str)
def test_the_estimate_has_the_tables_of_a_whole_run(shape: Shape) -> None:
    call = shape.arguments()
    without = dcache.memory_estimate(shape.build(), "interval", **call)
    estimate = dcache.memory_estimate(shape.build(), "interval", memo="keep", **call)
    pipe = dcache.memo(shape.build())
    held: list[int] = []
    before_step(pipe, lambda: held.append(tables_of(pipe)))
    pipe(**call), pipe(**call)
    assert estimate - without == max(held) > 0


def test_the_estimate_of_a_bare_module_counts_the_steps_that_are_known() -> None:
    call = {"sample": draw(1, 2, 8), "timestep": torch.tensor([5.0])}
    schedule = methods.interval(sites="model", interval=2)
    without = dcache.memory_estimate(net(), schedule, **call)
    # Three timed modules with 8 numbers each.
    assert dcache.memory_estimate(net(), schedule, memo="keep", **call) == without + 3 * 8 * 4
