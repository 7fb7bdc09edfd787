"""Hand-written loops whose first step keeps nothing of the sample: DDPM on the squared-cosine schedule.

The noise levels are computed here. Of the sample at the last training step, sqrt(1 - 0.999) = 0.03 is left
at the step before it: nothing tells that from the noise of another picture but the timesteps.
"""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheWarning, methods
from tests.engine.tiny_models import Mix

TRAINED = 100
_LEVELS = [math.cos((t / TRAINED + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(TRAINED + 1)]
BETAS = [min(1.0 - _LEVELS[t + 1] / _LEVELS[t], 0.999) for t in range(TRAINED)]


class Net(nn.Module):
    """Blocks that see the timestep."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([Mix() for _ in range(3)])
        self.eval()

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        x = x + 0.01 * timestep
        for block in self.blocks:
            x = block(x)
        return x


def picture(net: nn.Module, seed: int, evaluations: int = 99, spacing: int = 5) -> torch.Tensor:
    """Ancestral sampling of one picture, shape (1, 64, 4); it may break off."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 64, 4, generator=g)
    for t in list(range(TRAINED - 1, -1, -spacing))[:evaluations]:
        kept = math.prod(1.0 - beta for beta in BETAS[: t + 1])
        before = math.prod(1.0 - beta for beta in BETAS[: max(0, t + 1 - spacing)])
        alpha = kept / before
        with torch.no_grad():
            noise = net(x, torch.tensor(t)).tanh()
        clean = ((x - (1 - kept) ** 0.5 * noise) / kept**0.5).clamp(-1, 1)
        mean = (before**0.5 * (1 - alpha) * clean + alpha**0.5 * (1 - before) * x) / (1 - kept)
        spread = ((1 - before) * (1 - alpha) / (1 - kept)) ** 0.5
        x = mean + spread * torch.randn(x.shape, generator=g)
    return x


EVALUATIONS = 20
METHODS = {
    "interval": lambda: methods.interval(interval=3, sites="trunk"),
    "step clock": lambda: methods.newton(interval=3, order=1, clock="step"),
    "default": lambda: None,
    "easycache": lambda: methods.easycache(threshold=3.0, warmup=2),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_first_step_of_a_cosine_schedule_ends_no_run(name: str) -> None:
    net = dcache.enable(Net(), METHODS[name]())
    with warnings.catch_warnings():
        warnings.simplefilter("error", DcacheWarning)
        pictures = [picture(net, seed) for seed in (1, 2, 1)]
    assert torch.equal(pictures[0], pictures[2])
    assert not torch.equal(pictures[0], picture(Net(), 1))
    stats = dcache.stats(net)
    assert (stats.steps, stats.computed + stats.predicted) == (EVALUATIONS, EVALUATIONS)
    assert stats.predicted > EVALUATIONS // 3
    trace = dcache.trace(net)
    assert trace.steps == EVALUATIONS
    with warnings.catch_warnings():
        warnings.simplefilter("error", DcacheWarning)
        dcache.enable(net, trace)
        assert torch.equal(picture(net, 1), pictures[0])
        assert dcache.stats(net).steps == EVALUATIONS


def test_evaluations_and_clock_values_are_counted_from_the_first_one() -> None:
    net = dcache.enable(Net(), "interval", interval=3, sites="trunk")
    picture(net, 1)
    ((row,),) = [rows.values() for rows in next(iter(dcache.trace(net).components.values())).rows.values()]
    # Nothing is remembered across the first step; from the second evaluation on one in three is computed.
    assert row == (True, *(i % 3 == 1 for i in range(1, 20)))


@pytest.mark.filterwarnings("ignore:nothing was predicted in this run of Net:dcache.DcacheWarning")
def test_a_picture_that_is_cancelled_after_its_first_evaluation_is_none_of_the_next() -> None:
    net, fresh = dcache.enable(Net(), "interval", interval=3), dcache.enable(Net(), "interval", interval=3)
    picture(net, 7, evaluations=1)
    # Another grid, which begins at the same level; and one of its own behind the first level.
    assert torch.equal(picture(net, 8, spacing=9), picture(fresh, 8, spacing=9))
    assert dcache.stats(net).steps == dcache.stats(fresh).steps == 12


def test_what_a_lone_evaluation_had_to_say_is_said_when_it_turns_out_to_be_one() -> None:
    net = dcache.enable(Net(), "interval", interval=2)

    def descend(seed: int, times: list[float]) -> None:
        x = torch.randn(1, 64, 4, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            for t in times:
                x = x - 0.1 * net(x, torch.tensor(t))

    descend(1, [90.0])
    descend(2, [40.0, 35.0, 30.0, 25.0])
    assert (dcache.stats(net).steps, dcache.stats(net).predicted) == (4, 2)
    with pytest.warns(DcacheWarning, match="nothing was predicted in this run of Net"):
        descend(3, [90.0])


class Line(nn.Module):
    """An output that is linear in the timestep."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.5), requires_grad=False)

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return self.slope * timestep + torch.zeros_like(x)


@pytest.mark.parametrize("clock", ["step", "timestep"])
def test_lines_are_predicted_exactly_across_the_first_step(clock: str) -> None:
    line = dcache.enable(
        Line(), methods.newton(interval=3, order=1, clock=clock, sites="model", codec="value")
    )
    x = torch.randn(1, 64, 4, generator=torch.Generator().manual_seed(1))
    outputs = []
    for i, t in enumerate(range(90, 0, -10)):
        with torch.no_grad():
            outputs.append(float(line(x, torch.tensor(float(t))).mean()))
        if not i:
            x = torch.randn(1, 64, 4, generator=torch.Generator().manual_seed(2))
    stats = dcache.stats(line)
    assert (stats.steps, stats.computed, stats.predicted) == (9, 4, 5)
    # Computed at 90, 80, 50 and 20; behind the anchors at 80 and 50 the line goes on.
    assert (outputs[0], outputs[2:4]) == (45.0, [40.0, 40.0])
    assert outputs[4:] == pytest.approx([25.0, 20.0, 15.0, 10.0, 5.0])
