"""Whole numbers among a call's arguments: flags make another call, counters and timesteps do not.

(x + timestep) * mode through three doublings, for x = 1: 8 * (1 + timestep) * mode.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import Method, methods
from dcache.engine.flags import flagged
from dcache.intercept.pytree import signature
from tests.engine.tiny_models import Double, Toy, integers

X = torch.ones(1, 2, 4)
METHODS: dict[str, Method] = {
    "trunk": methods.interval(interval=9, codec="value"),
    "model": methods.interval(interval=9, codec="value", sites="model"),
    "two blocks": methods.interval(interval=9, codec="value", sites="run:0-1"),
}


class Moded(Toy):
    """8 * (x + timestep) * mode, where the mode is a factor of the first block's input."""

    def forward(self, x: torch.Tensor, timestep: Any, mode: Any = 1) -> torch.Tensor:
        factor = mode["mode"] if isinstance(mode, dict) else mode
        return super().forward(x * factor, timestep * factor)


class Unnamed(Toy):
    """The timestep has a name that says nothing."""

    def forward(self, x: torch.Tensor, k: int) -> torch.Tensor:
        return super().forward(x, k)


def outputs(model: nn.Module, modes: list[Any], times: list[Any], **told: Any) -> list[float]:
    """What the calls of one announced run gave."""
    each = []
    for i, (mode, t) in enumerate(zip(modes, times, strict=True)):
        dcache.step(model, i, **told)
        with torch.no_grad():
            each.append(model(X, t, mode))
    return integers(each)


def row(model: nn.Module) -> str:
    """1 where an evaluation was computed."""
    (plan,) = dcache.trace(model).components.values()
    return "".join("01"[c] for c in next(iter(plan.rows["*"].values())))


@pytest.mark.parametrize("nested", [False, True], ids=["argument", "in a dict"])
@pytest.mark.parametrize("name", METHODS)
def test_a_call_of_another_mode_is_not_predicted_from_those_before(name: str, nested: bool) -> None:
    model = dcache.enable(Moded(), METHODS[name])
    modes: list[Any] = [1, 1, 3, 3, 3, 1]
    given = [{"mode": mode} for mode in modes] if nested else modes
    for _ in range(2):
        assert outputs(model, given, [4] * 6) == [40, 40, 120, 120, 120, 40]
        assert dcache.stats(model).reasons == {"warmup": 1, "shape": 2}
        assert row(model) == "101001"
    expected = outputs(dcache.enable(Moded(), dcache.trace(model)), given, [4] * 6)
    assert expected == [40, 40, 120, 120, 120, 40]


def test_a_mode_that_changes_in_the_second_evaluation_is_noticed_there() -> None:
    model = dcache.enable(Moded(), METHODS["trunk"])
    assert outputs(model, [5, 1, 1, 1], [4] * 4) == [200, 40, 40, 40]
    assert row(model) == "1100"


@pytest.mark.parametrize("times", [[4, 3, 2, 1], [4, 2.5, 2, 1]], ids=["whole", "mixed"])
def test_a_timestep_is_no_flag(times: list[float]) -> None:
    model = dcache.enable(Moded(), METHODS["trunk"])
    assert outputs(model, [1] * 4, times) == [40] * 4
    assert dcache.stats(model).reasons == {"warmup": 1}


@pytest.mark.parametrize("branches", [1, 2])
def test_a_number_that_changes_in_each_evaluation_counts_and_costs_one(branches: int) -> None:
    model = dcache.enable(Unnamed(), METHODS["trunk"])
    for _ in range(2):
        each = []
        for i, k in enumerate([5, 4, 3, 2, 1]):
            dcache.step(model, i)
            with torch.no_grad():
                each += [model(X, k) for _ in range(branches)]
        # 8 * (1 + k) at k = 5 and 4, and the last again.
        assert integers(each)[::branches] == [48, 40, 40, 40, 40]
        assert dcache.stats(model).reasons == {"warmup": branches, "shape": branches}
        assert dcache.stats(model).predicted == 3 * branches
        assert row(model) == "11000"


def test_a_number_that_was_steady_once_is_a_flag_for_the_whole_run() -> None:
    model = dcache.enable(Moded(), METHODS["trunk"])
    assert outputs(model, [1, 1, 2, 3, 4, 4], [4] * 6) == [40, 40, 80, 120, 160, 160]
    assert row(model) == "101110"


class Writing(nn.Module):
    """Mode 1 appends to a list that is passed; mode 0 reads its length."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Double()])
        self.eval()

    def forward(self, x: torch.Tensor, timestep: Any, entries: list[float], mode: int) -> torch.Tensor:
        if mode:
            entries.append(1.0)
        return self.blocks[0](x) + len(entries)


def test_a_call_that_writes_by_its_number_is_seen_late_as_well() -> None:
    model, entries = dcache.enable(Writing(), METHODS["trunk"]), list[float]()
    with torch.no_grad():
        for i in range(6):
            dcache.step(model, i)
            model(X, 4, entries, int(i in (2, 4)))
    assert len(entries) == 2


def marked(args: Any, kwargs: Any, place: int, counters: Any = ()) -> Any:
    """The mark of a call: its signature with the numbers that may be flags."""
    numbers: list[Any] = []
    return flagged(signature(args, kwargs, numbers), numbers, place, counters)


def test_a_signature_has_the_numbers_that_may_be_flags() -> None:
    plain = marked((X, 3), {"timestep": 7}, 1)
    assert plain == marked((X, 4), {"timestep": 8}, 1) == marked((X, 4.5), {"timestep": 8.0}, 1)
    assert marked((X, 3), {}, -1) != marked((X, 4), {}, -1)
    assert marked((X, 3), {}, -1, {1}) == marked((X, 4), {}, -1, {1})
    assert marked((X,), {"mode": 0}, 1) != marked((X,), {"mode": 1}, 1)
