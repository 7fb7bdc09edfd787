"""A UNet's bracket: the inner part of the sink's input is replaced, the skip stays fresh."""

from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import Method, methods
from dcache.engine.lowering.bracket import BracketRegion, SkipConcatCall
from dcache.engine.lowering.module import PlaceholderCall
from dcache.engine.session import Session
from dcache.schedulers import Listed
from tests.engine.tiny_models import OutOfSight, integers, session_on, steps

TIMES = [4, 3, 2, 1]


class Times(nn.Module):
    """A multiple of its input; counts its own runs."""

    runs = OutOfSight()

    def __init__(self, factor: float, channels: int = 2) -> None:
        super().__init__()
        self.factor, self.out_channels, self.runs = factor, channels, 0

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return hidden * self.factor


class Sink(nn.Module):
    """Inner part plus a multiple of the skip plus a bias, in so many channels; keeps what it was given."""

    runs, given = OutOfSight(), OutOfSight()

    def __init__(self, factor: float, channels: int) -> None:
        super().__init__()
        self.factor, self.out_channels, self.runs = factor, channels, 0
        self.given = torch.zeros(0)

    def forward(self, hidden: torch.Tensor, bias: float = 0.0) -> torch.Tensor:
        self.runs += 1
        self.given = hidden
        y = hidden[:, :1] + self.factor * hidden[:, -1:] + bias
        return y.expand(-1, self.out_channels, -1).clone()


class Stage(nn.Module):
    def __init__(self, *resnets: nn.Module) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        hidden = self.resnets[0](hidden)
        return hidden, (hidden,)


class Net(nn.Module):
    """Two skips of two channels: h = x + t, then 2 h; 3 times that is innermost.

    The inner sink adds 10 times its skip, in three channels; the outer one 100 times its skip.

    Args:
        by_name: whether the sinks are given their input by keyword.
    """

    def __init__(self, by_name: bool = False) -> None:
        super().__init__()
        self.conv_in = Times(1.0)
        self.down_blocks = nn.ModuleList([Stage(Times(2.0))])
        self.mid_block = Times(3.0)
        self.up_blocks = nn.ModuleList([Stage(Sink(10.0, 3), Sink(100.0, 1))])
        self.by_name = by_name
        self.eval()

    @property
    def sinks(self) -> list[Any]:
        return list(self.up_blocks[0].resnets)  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        outer = self.conv_in(x + timestep)
        hidden, (inner,) = self.down_blocks[0](outer)
        hidden = self.mid_block(hidden)
        for sink, skip, bias in zip(self.sinks, (inner, outer), (0.0, 1.0), strict=True):
            joined = torch.cat([hidden, skip], 1)
            hidden = sink(hidden=joined, bias=bias) if self.by_name else sink(joined, bias)
        return hidden


def on(model: nn.Module, level: int, *computed: int) -> Session:
    """Compute these evaluations of one bracket."""
    sites = (f"bracket:{level}",)
    return session_on(model, Method("mine", rule=Listed(computed), sites=sites, codec="value"))


def uncached(time: int) -> int:
    # h = t + 1: 6 h innermost, 20 h and 100 h by the skips, and the bias.
    return 126 * (time + 1) + 1


def test_the_tiny_net_is_what_is_claimed_of_it() -> None:
    model = Net()
    with torch.no_grad():
        found = [model(torch.ones(1, 2, 4), t) for t in TIMES]
    assert integers(found) == [uncached(t) for t in TIMES] == [631, 505, 379, 253]


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize(
    ("level", "expected"),
    [
        # 26 h of the first and the third h are kept, 100 h of the skip are not.
        (0, [631, 130 + 400 + 1, 379, 78 + 200 + 1]),
        # 6 h are kept, 120 h are not.
        (1, [631, 30 + 480 + 1, 379, 18 + 240 + 1]),
    ],
)
def test_the_inner_part_is_remembered_and_the_skip_is_fresh(
    level: int, expected: list[int], by_name: bool
) -> None:
    model = Net(by_name)
    on(model, level, 0, 2)
    assert integers(steps(model, TIMES)) == expected


@pytest.mark.parametrize("by_name", [False, True])
def test_the_sink_is_given_the_prediction_in_front_of_the_skip(by_name: bool) -> None:
    model = Net(by_name)
    on(model, 0, 0)
    steps(model, TIMES[:2])
    given = model.sinks[1].given
    # Three inner channels of 130, two of the skip's 4.
    assert given.shape == (1, 5, 4)
    assert integers([given[:, :3], given[:, 3:]]) == [130, 4]


def test_nothing_inside_the_bracket_runs_and_everything_outside_does() -> None:
    model = Net()
    on(model, 0, 0, 2)
    steps(model, TIMES)
    inside = (model.down_blocks[0].resnets[0], model.mid_block, model.sinks[0])
    assert [m.runs for m in inside] == [2, 2, 2]
    # Once more in the self-check.
    assert [m.runs for m in (model.conv_in, model.sinks[1])] == [5, 5]
    model = Net()
    on(model, 1, 0, 2)
    steps(model, TIMES)
    assert model.mid_block.runs == 2
    assert [m.runs for m in (model.conv_in, *model.sinks)] == [5, 5, 5]


def test_only_the_inner_part_is_stored() -> None:
    model = Net()
    session = on(model, 0, 0)
    steps(model, TIMES[:1])
    (region,) = session.binding.regions
    assert isinstance(region, BracketRegion)
    assert list(region.parts()) == [region]
    assert region.history is not None
    ((stored,),) = region.history.leaves
    assert isinstance(stored, torch.Tensor)
    assert stored.shape == (1, 3, 4)
    assert integers([stored]) == [130]


def test_the_inner_parts_follow_the_predictor() -> None:
    model = Net()
    line = methods.newton(order=1, interval=4, warmup=2, sites="bracket:0", clock="step", last=False)
    session_on(model, line)
    # 26 h on a line in h, so that it meets what is computed.
    assert integers(steps(model, TIMES)) == [uncached(t) for t in TIMES]
    assert model.mid_block.runs == 2


def test_a_sink_knows_the_name_of_its_input_and_the_channels_of_its_skip() -> None:
    model = Net()
    session = on(model, 0, 0)
    (sink,) = [i for i in session.binding.intercepts if isinstance(i, SkipConcatCall)]
    assert (sink.module, sink.name, sink.channels) == (model.sinks[1], "hidden", 2)
    hollow = [i.module for i in session.binding.intercepts if isinstance(i, PlaceholderCall)]
    assert hollow == [model.down_blocks[0], model.mid_block, model.sinks[0]]


def test_outside_of_a_call_a_sink_is_as_it_was() -> None:
    model = Net()
    on(model, 0, 0)
    steps(model, TIMES[:1])
    # 7 + 100 * 7
    assert integers([model.sinks[1](torch.full((1, 5, 4), 7.0))]) == [707]
    dcache.step(model, 1)
    with torch.no_grad():
        assert integers([model(torch.ones(1, 2, 4), 3)]) == [531]
