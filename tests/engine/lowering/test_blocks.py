"""A run of blocks: inputs pass through it, its last block returns the prediction."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from dcache import DcacheError, methods
from dcache.engine.lowering.blocks import BlockCall, RunRegion
from dcache.engine.session import Session
from tests.engine.tiny_models import Double, OutOfSight, Toy, integers, session_on, steps

TIMES = [4, 3, 2, 1]


def every_2(codec: str, sites: str = "trunk") -> Any:
    return methods.interval(interval=2, codec=codec, sites=sites)


def calls_of(session: Session) -> list[BlockCall]:
    return [i for i in session.binding.intercepts if isinstance(i, BlockCall)]


def region_of(session: Session) -> RunRegion:
    (region,) = session.binding.regions
    assert isinstance(region, RunRegion)
    return region


class Open(Toy):
    """Keeps what went in and what came out of each block in the last evaluation; can leave blocks out."""

    went = OutOfSight()

    def __init__(self, blocks: Sequence[nn.Module] | None = None) -> None:
        super().__init__(blocks)
        self.went = []
        self.without: tuple[int, ...] = ()

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        x = x + timestep
        self.went = [x]
        for i, block in enumerate(self.blocks):
            if i not in self.without:
                x = block(x)
            self.went.append(x)
        return x


class Inplace(Double):
    """Writes over its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(self.weight)


class Flagged(Double):
    """Returns things that are no tensors beside the stream."""

    def forward(self, x: torch.Tensor) -> Any:
        return {"x": super().forward(x), "rest": [None, 7]}


class Unpacks(Toy):
    """Unpacks what its blocks return beside the stream, and needs it."""

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        x = x + timestep
        for block in self.blocks:
            output = block(x)
            x, (nothing, seven) = output["x"], output["rest"]
            assert nothing is None
        return x + seven


class Pair(nn.Module):
    """Two streams: the text twice, the image three times as much, returned in the other order."""

    runs = OutOfSight()

    def __init__(self) -> None:
        super().__init__()

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.runs += 1
        return text * 2, image * 3


class TwoStreams(nn.Module):
    """Blocks of two streams, then blocks of the two joined along the tokens, if there are any.

    Args:
        single: number of blocks behind the seam.
        text_first: in which order they are joined.
        by_name: whether blocks are given their arguments by keyword.
    """

    def __init__(self, single: int = 2, text_first: bool = True, by_name: bool = False) -> None:
        super().__init__()
        self.pairs = nn.ModuleList([Pair(), Pair()])
        if single:
            self.single = nn.ModuleList([Double() for _ in range(single)])
        self.text_first, self.by_name = text_first, by_name
        self.eval()

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        image, text = x + timestep, torch.full((1, 3, 4), 2.0)
        for block in self.pairs:
            text, image = block(text=text, image=image) if self.by_name else block(image, text)
        joined = torch.cat([text, image] if self.text_first else [image, text], 1)
        for block in getattr(self, "single", ()):
            joined = block(joined)
        return joined

    def parts(self, joined: torch.Tensor) -> tuple[float, float]:
        """What the text and the image of an output are filled with."""
        text, image = joined.split([3, 2] if self.text_first else [2, 3], 1)[:: 1 if self.text_first else -1]
        found = integers([text, image])
        return found[0], found[1]


# One stream -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "second"), [("value", 20), ("delta", 4 + 15)])
def test_inputs_pass_through_and_the_last_block_returns_the_prediction(codec: str, second: float) -> None:
    model = Open()
    session_on(model, every_2(codec, "run:0-1"))
    # 5 becomes 20 in the run and 40 behind it.
    assert integers(steps(model, TIMES[:1])) == [40]
    steps(model, TIMES[1:2], first=1)
    entry, between, left, out = model.went
    assert between is entry
    assert integers([entry, left, out]) == [4, second, 2 * second]
    # The third block is none of the run: it ran in both evaluations and in the self-check.
    assert [block.runs for block in model.blocks] == [1, 1, 3]


@pytest.mark.parametrize("codec", ["value", "delta"])
def test_blocks_that_write_over_their_input_are_remembered_by_what_they_were_given(codec: str) -> None:
    model = Toy([Inplace() for _ in range(3)])
    session_on(model, every_2(codec))
    # In the first evaluation the inputs are copied, in the third one what the codec needs of them is taken.
    expected = [40, 4 + 35, 24, 2 + 21] if codec == "delta" else [40, 40, 24, 24]
    assert integers(steps(model, TIMES)) == expected


@pytest.mark.parametrize("codec", ["value", "delta"])
def test_what_is_no_tensor_is_as_it_was_seen(codec: str) -> None:
    model = Unpacks([Flagged(), Flagged()])
    session = session_on(model, every_2(codec))
    # Of a whole number two computed calls are seen.
    expected = [20 + 7, 16 + 7, (3 + 12 if codec == "delta" else 16) + 7]
    assert integers(steps(model, TIMES[:3])) == expected
    history = region_of(session).history
    assert history is not None
    assert history.form.constants == {1: None, 2: 7}
    assert [block.runs for block in model.blocks] == [2, 2]


def test_outside_of_a_call_blocks_are_as_they_were() -> None:
    model = Toy()
    session_on(model, every_2("value"))
    steps(model, TIMES[:1])
    assert integers([model.blocks[0](torch.ones(1, 2, 4)), model.blocks[2](torch.ones(1, 2, 4))]) == [2, 2]


def test_the_region_knows_its_entries_once_the_blocks_were_seen() -> None:
    model = Toy()
    session = session_on(model, every_2("delta"))
    region = region_of(session)
    assert region.sources is None
    steps(model, TIMES[:1])
    assert (region.sources, region.entry_keys, region.joined_keys) == ([("x",)], [0], {})
    assert region.order == list(model.blocks)
    # No copy of an input is left behind.
    assert (region.clones, list(region.entries), list(region.opened)) == ({}, [], [])
    assert list(region.parts()) == [region]


# Blocks that are left out ---------------------------------------------------------------------------


def test_a_block_that_is_left_out_of_a_predicted_run_is_not_missed() -> None:
    model = Open()
    session_on(model, every_2("delta"))
    steps(model, TIMES[:1])
    model.without = (1,)
    assert integers(steps(model, TIMES[1:2], first=1)) == [4 + 35]


def test_one_that_was_left_out_of_a_computed_run_is_not_missed_either() -> None:
    model = Open()
    session_on(model, every_2("delta"))
    assert integers(steps(model, TIMES[:2])) == [40, 39]
    model.without = (1,)
    # 3 becomes 12, a change of 9.
    assert integers(steps(model, TIMES[2:3], first=2)) == [12]
    model.without = ()
    assert integers(steps(model, TIMES[3:], first=3)) == [2 + 9]


def test_a_block_that_was_never_seen_cannot_be_passed_through() -> None:
    model = Toy()
    session = session_on(model, every_2("delta"))
    steps(model, TIMES[:1])
    calls_of(session)[1].passing = None
    with pytest.raises(DcacheError, match=r"trunk was to be predicted, and its block Double was not called"):
        steps(model, TIMES[1:2], first=1)
    assert session.call is None


def test_only_the_ends_of_a_run_enter_and_leave_it() -> None:
    session = session_on(Toy(), every_2("delta"))
    assert [(c.first, c.last) for c in calls_of(session)] == [(True, False), (False, False), (False, True)]
    alone = calls_of(session_on(Toy(), every_2("delta", "block")))
    assert [(c.first, c.last) for c in alone] == [(True, True)] * 3
    assert len({c.region for c in alone}) == 3


# Two streams ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("codec", ["value", "delta"])
def test_each_stream_continues_its_own_entry(codec: str, by_name: bool) -> None:
    model = TwoStreams(single=0, by_name=by_name)
    session = session_on(model, every_2(codec))
    # Text 2 becomes 8; image 5 becomes 45, a change of 40.
    found = [model.parts(output) for output in steps(model, TIMES[:2])]
    assert found == [(8, 45), (8, 4 + 40 if codec == "delta" else 45)]
    assert [block.runs for block in model.pairs] == [1, 1]
    if codec == "delta":
        region = region_of(session)
        assert region.sources == [("text",), ("image",)]
        assert region.entry_keys == (["text", "image"] if by_name else [1, 0])


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("text_first", [True, False])
def test_behind_a_seam_the_exit_continues_both_entries_joined(text_first: bool, by_name: bool) -> None:
    model = TwoStreams(text_first=text_first, by_name=by_name)
    session = session_on(model, every_2("delta"))
    found = [model.parts(output) for output in steps(model, TIMES)]
    # Text 2 becomes 8 and 32; image 5 becomes 45 and 180, later 3 becomes 27 and 108.
    assert found == [(32, 180), (32, 4 + 175), (32, 108), (32, 2 + 105)]
    region = region_of(session)
    assert region.sources == [("text", "image") if text_first else ("image", "text")]
    keys: Callable[[str], Any] = (lambda name: name) if by_name else ["image", "text"].index
    assert region.joined_keys == {0: tuple(keys(name) for name in region.sources[0])}
    assert (region.dim, region.entry_keys) == (1, [None])
    # Two of the four evaluations were computed.
    assert [block.runs for block in (*model.pairs, *model.single)] == [2] * 4


def test_a_run_without_a_seam_in_it_joins_nothing() -> None:
    model = TwoStreams()
    session = session_on(model, every_2("delta", "run:2-3"))
    # The blocks of two streams are computed: text 8; image 45, then 36, with changes of 24 and 135.
    assert [model.parts(output) for output in steps(model, TIMES[:2])] == [(32, 180), (32, 36 + 135)]
    assert region_of(session).joined_keys == {}
    assert [block.runs for block in model.single] == [1, 1]
