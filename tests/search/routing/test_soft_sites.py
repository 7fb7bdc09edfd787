"""Soft sublayers: w = 1 is the model, w in {0, 1} the schedule, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import dcache
from dcache.schedule import Plan, Schedule
from dcache.search.routing.router import soft, sublayers_of
from dcache.sites.site import Sublayer
from tests.pipelines import SHAPES
from tests.search.tiny_subject import TinySubject

STEPS = 4
Compute = Callable[[torch.Tensor | None], torch.Tensor]


class Fixed:
    """Weights from a table, (T, S)."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table, self.calls = table, 0

    def __call__(self, index: int, compute: Compute) -> torch.Tensor:
        self.calls += 1
        return compute(self.table[index])


@pytest.mark.parametrize("name", ["pixart", "flux"])
def test_weights_of_one_are_the_model_and_of_zero_and_one_the_schedule(name: str) -> None:
    subject = TinySubject(SHAPES[name], STEPS)
    module = subject.pipe.transformer
    plain = subject(["a"], [1])
    sublayers = sublayers_of(module)
    ones = Fixed(torch.ones(STEPS, len(sublayers)))
    with soft(subject, module, sublayers, ones):
        assert (subject(["a"], [1]) == plain).all()
    assert ones.calls >= STEPS
    generator = torch.Generator().manual_seed(3)
    table = (torch.rand(STEPS, len(sublayers), generator=generator) > 0.5).float()
    table[0] = 1.0
    with soft(subject, module, sublayers, Fixed(table)):
        mixed = subject(["a"], [1])
    rows = {s.name: tuple(bool(x) for x in table[:, i]) for i, s in enumerate(sublayers)}
    with dcache.enabled(subject.pipe, Schedule(STEPS, {"": Plan({"*": rows}, codec="value")})):
        scheduled = subject(["a"], [1])
    assert (mixed == scheduled).all()
    assert not (mixed == plain).all()
    assert (subject(["a"], [1]) == plain).all()


def test_the_model_itself_may_be_the_only_site() -> None:
    subject = TinySubject(SHAPES["pixart"], STEPS)
    module = subject.pipe.transformer
    table = torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    with soft(subject, module, [Sublayer("model", "model", 0, module)], Fixed(table)):
        mixed = subject(["a"], [1])
    plan = Plan({"*": {"model": (True, False, True, False)}}, codec="value")
    with dcache.enabled(subject.pipe, Schedule(STEPS, {"": plan})):
        assert (subject(["a"], [1]) == mixed).all()
