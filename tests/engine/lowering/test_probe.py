"""What a dynamic rule looks at is always computed, and its change indicator is shown what it is."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from dcache import Method
from dcache.engine.lowering.probe import AttentionInputProbe, FrontProbe, FrontProbeCall
from dcache.engine.session import Session
from dcache.probes import Probe, SinceCompute
from dcache.schedulers import ChangeAbove, Listed, Rule
from dcache.sites.blocks import SUBLAYERS, key_of
from tests.engine.tiny_models import Double, Toy, integers, session_on, steps

TIMES = [4, 3, 2, 1]
SHOWN: list[torch.Tensor] = []


class Noting(SinceCompute):
    """Keeps a copy of everything it is shown, and the shown itself."""

    def update(self, x: torch.Tensor, logsnr: float | None) -> None:
        SHOWN.append(x.clone())
        super().update(x, logsnr)


@pytest.fixture(autouse=True)
def nothing_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    SHOWN.clear()
    for kind in (Attends, TextFirst, Overwritten):
        monkeypatch.setitem(SUBLAYERS, key_of(kind), {"attn": ("attn",)})


class Inplace(Double):
    """Writes over its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(self.weight)


class Pair(nn.Module):
    """The image three times, the text twice as much, returned in the other order."""

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return text * 2, image * 3


class Single(Double):
    """Twice the streams that were joined, under the name that the image has in a `Pair`."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image)


class Joined(Double):
    """The same under a name that a `Pair` does not have."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden)


class TwoStreams(nn.Module):
    """Two blocks of two streams, then two of both joined, the text in front."""

    def __init__(self, single: type[nn.Module] = Single) -> None:
        super().__init__()
        self.pairs = nn.ModuleList([Pair(), Pair()])
        self.single = nn.ModuleList([single(), single()])
        self.eval()

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        image, text = x + timestep, torch.full((1, 3, 4), 2.0)
        for block in self.pairs:
            text, image = block(text=text, image=image)
        joined = torch.cat([text, image], 1)
        for block in self.single:
            joined = block(joined)
        return joined


class Attends(nn.Module):
    """x + 2 (10 x): what is given to the attention is 10 x. Counts its norm's and its own ends' runs."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = Double()
        self.begun = self.ended = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.begun += 1
        y = x + self.attn(self.modulated(x))
        self.ended += 1
        return y

    def modulated(self, x: torch.Tensor) -> torch.Tensor:
        return x * 10


class Overwritten(Attends):
    """The attention writes over what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = Inplace()


def front(model: nn.Module, blocks: int, rule: Rule, codec: str = "delta") -> Session:
    probe = Probe("front", blocks, Noting)
    return session_on(model, Method("mine", rule=rule, codec=codec, probe=probe))


def modulated(model: nn.Module, rule: Rule, **more: Any) -> Session:
    probe = Probe("modulated", indicator=Noting)
    return session_on(model, Method("mine", rule=rule, codec="delta", probe=probe, **more))


def shown() -> list[float]:
    return integers(SHOWN)


# The leading blocks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Double, Inplace])
@pytest.mark.parametrize(("blocks", "changes"), [(1, [5, 4, 3, 2]), (2, [15, 12, 9, 6])])
def test_the_indicator_is_shown_output_minus_input(kind: Any, blocks: int, changes: Sequence[int]) -> None:
    model = Toy([kind() for _ in range(3)])
    front(model, blocks, Listed((0, 2)))
    steps(model, TIMES)
    assert shown() == changes


@pytest.mark.parametrize("blocks", [1, 2])
def test_the_front_is_always_computed_and_the_rest_is_not(blocks: int) -> None:
    model = Toy()
    front(model, blocks, Listed((0, 2)))
    # The rest multiplies by r: its change is (r - 1) times its entry in the first and third evaluation.
    entries, r = [h * 2**blocks for h in (5, 4, 3, 2)], 2 ** (3 - blocks)
    changes = [entries[i] * (r - 1) for i in (0, 0, 2, 2)]
    assert integers(steps(model, TIMES)) == [e + c for e, c in zip(entries, changes, strict=True)]
    # Once more in the self-check, which shows the indicator nothing.
    assert [block.runs for block in model.blocks] == [5] * blocks + [2] * (3 - blocks)
    assert len(SHOWN) == 4


def test_the_rule_is_told_the_change_of_the_evaluation_under_way() -> None:
    model = Toy()
    session = front(model, 1, ChangeAbove(0.3))
    # The front's changes are 5, 4, 3, 2. By 1/5 a prediction; by 2/5 none; then by 1/3 none.
    assert integers(steps(model, TIMES)) == [40, 8 + 30, 24, 16]
    assert (session.stats().computed, session.stats().predicted) == (3, 1)
    assert [block.runs for block in model.blocks] == [5, 3, 3]


def test_the_front_knows_its_main_stream_and_keeps_none_of_it() -> None:
    model = Toy()
    session = front(model, 2, Listed((0,)))
    calls = [i for i in session.binding.intercepts if isinstance(i, FrontProbeCall)]
    assert [(c.module, c.first, c.last) for c in calls] == [
        (model.blocks[0], True, False),
        (model.blocks[1], False, True),
    ]
    assert calls[0].front is calls[1].front
    steps(model, TIMES[:2])
    found = calls[0].front
    assert (found.keys, found.leaf, found.dim, found.clones, found.before) == ((0,), 0, 0, {}, None)


def test_of_two_streams_the_first_is_looked_at() -> None:
    model = TwoStreams()
    front(model, 1, Listed((0, 2)))
    steps(model, TIMES)
    # The image, which the block returns second: h becomes 3 h.
    assert shown() == [10, 8, 6, 4]
    assert {x.shape for x in SHOWN} == {(1, 2, 4)}


@pytest.mark.parametrize("single", [Single, Joined])
def test_behind_a_seam_both_streams_are(single: type[nn.Module]) -> None:
    model = TwoStreams(single)
    session = front(model, 3, Listed((0, 2)), codec="value")
    steps(model, TIMES)
    assert {x.shape for x in SHOWN} == {(1, 5, 4)}
    # Text 2 becomes 8 and 16; the image becomes 9 and 18 times as much.
    assert integers([x[:, :3] for x in SHOWN]) == [14] * 4
    assert integers([x[:, 3:] for x in SHOWN]) == [17 * h for h in (5, 4, 3, 2)]
    fronts: list[FrontProbe] = [i.front for i in session.binding.intercepts if isinstance(i, FrontProbeCall)]
    assert (fronts[0].keys, fronts[0].dim, fronts[0].leaf) == (("text", "image"), 1, 0)


def test_a_stream_may_have_another_name_in_the_last_block_of_the_front() -> None:
    model = Toy([Double(), Joined(), Double()])
    front(model, 2, Listed((0, 2)))
    steps(model, TIMES)
    assert shown() == [15, 12, 9, 6]


def test_what_is_shown_belongs_to_the_indicator() -> None:
    model = Toy()
    session = front(model, 1, Listed((0,)))
    steps(model, TIMES[:1])
    (branch,) = session.state.branches.values()
    assert isinstance(branch.indicator, Noting)
    assert branch.indicator.then is not None
    assert integers([branch.indicator.then]) == [5]
    # Later evaluations are computed in other memory.
    steps(model, TIMES[1:2], first=1)
    assert integers([branch.indicator.then]) == [5]


# The first block's attention ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Attends, Overwritten])
def test_the_indicator_is_shown_what_the_attention_is_given(kind: type[Attends]) -> None:
    model = Toy([kind(), Double()])
    modulated(model, lambda moment: "change" if moment.change() > 10 else None)
    # A change from nothing is infinite; the others are small. h becomes 21 h and 42 h.
    assert integers(steps(model, TIMES)) == [42 * 5, 4 + 41 * 5, 3 + 41 * 5, 2 + 41 * 5]
    assert shown() == [50, 40, 30, 20]


class TextFirst(Attends):
    """Gives a text of three tokens to the same attention first; x has two."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.attn(torch.full((1, 3, 4), 7.0))
        return super().forward(x)


def test_of_an_attention_of_two_streams_the_call_of_the_first_argument_is_shown() -> None:
    model = Toy([TextFirst(), Double()])
    modulated(model, lambda moment: "change" if moment.change() > 10 else None)
    assert integers(steps(model, TIMES)) == [42 * 5, 4 + 41 * 5, 3 + 41 * 5, 2 + 41 * 5]
    # 7 was shown in the first evaluation, before its second call was known.
    assert shown() == [7, 50, 40, 30, 20]
    assert model.blocks[0].ended == 1


def test_peeking_ends_at_the_attention() -> None:
    model = Toy([Attends(), Double()])
    modulated(model, lambda moment: "change" if moment.change() > 10 else None)
    steps(model, TIMES)
    first, second = model.blocks
    # Computed once; then in each evaluation the first block begins and goes no further.
    assert (first.ended, first.attn.runs, second.runs) == (1, 1, 1)
    assert first.begun == 1 + 3


def test_an_evaluation_that_is_computed_after_peeking_shows_the_indicator_nothing_more() -> None:
    model = Toy([Attends(), Double()])
    session = modulated(model, ChangeAbove(0.3))
    # 10 h changes by 1/5, a prediction; from 5 to 3 by 2/5, and from 3 to 2 by 1/3, both computed.
    assert integers(steps(model, TIMES)) == [210, 4 + 205, 126, 84]
    assert shown() == [50, 40, 30, 20]
    first = model.blocks[0]
    assert first.ended == first.attn.runs == 3
    # Peeked three times (there was nothing to peek for at first), computed three times.
    assert first.begun == 6
    assert session.call is None


def test_a_guard_that_does_not_look_peeks_at_nothing() -> None:
    model = Toy([Attends(), Double()])
    modulated(model, Listed((0, 1)))
    steps(model, TIMES)
    first = model.blocks[0]
    # Computed evaluations pass the attention, and it is seen there; the predicted ones do not.
    assert shown() == [50, 40]
    assert (first.begun, first.ended) == (2, 2)


def test_outside_of_a_call_a_peek_is_the_modules_own_call() -> None:
    model = Toy([Attends(), Double()])
    session = modulated(model, Listed((0,)))
    steps(model, TIMES[:1])
    (peek,) = [i for i in session.binding.intercepts if isinstance(i, AttentionInputProbe)]
    assert peek.module is model.blocks[0].attn
    assert integers([model.blocks[0](torch.ones(1, 2, 4))]) == [21]
    assert shown() == [50]


@pytest.mark.filterwarnings("ignore:the dynamic rule's probe")
def test_without_attention_the_first_blocks_input_is_shown_before_the_decision() -> None:
    model = Toy([Double(), Double()])
    session = modulated(model, ChangeAbove(0.3))
    # h = 5, 4, 3, 2 changes by 1/5, a prediction; from 5 to 3 by 2/5, and from 3 to 2 by 1/3, both computed.
    assert integers(steps(model, TIMES)) == [20, 4 + 15, 12, 8]
    assert shown() == [5, 4, 3, 2]
    # There is nothing to peek for: no block ran for the decision alone.
    assert [block.runs for block in model.blocks] == [3, 3]
    assert session.call is None
