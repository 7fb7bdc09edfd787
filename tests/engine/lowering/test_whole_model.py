"""The whole model as a site: its output is remembered as it is or as a change, and put together again."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, methods
from dcache.cache.history import Branch
from dcache.engine.call import Call
from dcache.engine.lowering.whole_model import WholeRegion
from dcache.engine.session import session_of
from tests.engine.tiny_models import OutOfSight, Toy, integers, session_on, walk


def full(value: float) -> torch.Tensor:
    return torch.full((1, 2, 4), float(value))


class Returns(nn.Module):
    """Whatever `what` makes of 2 x + timestep; counts its own runs."""

    runs = OutOfSight()

    def __init__(self, what: Callable[[torch.Tensor], Any] = lambda y: y) -> None:
        super().__init__()
        self.what, self.runs = what, 0
        self.eval()

    def forward(self, x: torch.Tensor, timestep: Any) -> Any:
        self.runs += 1
        return self.what(2 * x + timestep)


def every_2(codec: str) -> Any:
    return methods.interval(interval=2, sites="model", codec=codec)


def outputs(model: nn.Module, codec: str, *entries: float) -> list[Any]:
    """One evaluation for each entry, at the timesteps 10, 9 and so on; every second one is predicted."""
    dcache.enable(model, every_2(codec))
    found = []
    for i, entry in enumerate(entries):
        dcache.step(model, i)
        found += walk(model, [10 - i], full(entry))
    return found


def region_on(codec: str) -> WholeRegion:
    region = session_on(Toy(), every_2(codec)).binding.whole
    assert isinstance(region, WholeRegion)
    return region


def test_as_a_value_the_output_comes_back_whatever_the_input() -> None:
    model = Returns()
    # 2 + 10 and 6 + 8.
    assert integers(outputs(model, "value", 1, 2, 3, 4)) == [12, 12, 14, 14]
    assert model.runs == 2


def test_as_a_change_it_is_added_to_the_fresh_input() -> None:
    model = Returns()
    # Changes of 12 - 1 and 14 - 3, on entries of 2 and 4.
    assert integers(outputs(model, "delta", 1, 2, 3, 4)) == [12, 13, 14, 15]
    assert model.runs == 2


def test_a_model_that_writes_over_its_input_changes_it_by_as_much() -> None:
    region, branch = region_on("delta"), Branch("0", 1)
    x = full(1)
    computed, spent = region.run(Call(branch, 0, 0.0), lambda x: x.mul_(5), (x,), {})
    assert computed is x
    assert spent > 0
    predicted, spent = region.run(Call(branch, 1, 1.0), lambda _: 1 / 0, (), {"x": full(7)})
    assert integers([predicted]) == [7 + 4]
    assert spent == 0.0


@pytest.mark.parametrize("codec", ["value", "delta"])
def test_what_is_no_tensor_comes_back_in_its_place(codec: str) -> None:
    model = Returns(lambda y: {"sample": y, "rest": ["a flag", y * 100, None, 3]})
    first, second = outputs(model, codec, 1, 2)
    rest = first["rest"]
    assert [rest[0], *integers([first["sample"], rest[1]]), *rest[2:]] == ["a flag", 12, 1200, None, 3]
    # A further tensor continues no input: it is a value also where the first is a change.
    sample = 13 if codec == "delta" else 12
    rest = second["rest"]
    assert list(second) == ["sample", "rest"]
    assert [rest[0], *integers([second["sample"], rest[1]]), *rest[2:]] == ["a flag", sample, 1200, None, 3]
    session = session_of(model)
    assert session is not None
    form = session.state.branches["0"].history("model").form
    assert form.constants == (None, "a flag", None, None, 3)
    assert form.changes == ((1, 2, 4) if codec == "delta" else None, None, None, None, None)
    assert model.runs == 1


def test_the_constants_are_those_of_the_last_computed_call() -> None:
    model = Returns(lambda y: (y, float(y[0, 0, 0])))
    with pytest.warns(DcacheWarning, match="Returns returns a number beside its tensors that changes"):
        flags = [flag for _, flag in outputs(model, "value", 1, 2, 3, 4)]
    assert flags == [12.0, 12.0, 14.0, 14.0]


class Boxed(nn.Module):
    """2 x + timestep, alone or in a dict with what else the caller asks for."""

    def forward(self, x: torch.Tensor, timestep: Any, return_dict: bool = True, text: Any = None) -> Any:
        y = (2 * x + timestep).to(torch.float32 if return_dict else torch.float64)
        return {"sample": y, "text": text, "kind": "dict"} if return_dict else (y,)


@pytest.mark.parametrize("codec", ["value", "delta"])
def test_branches_that_ask_for_different_containers_are_each_given_their_own(codec: str) -> None:
    model = Boxed().eval()
    dcache.enable(model, every_2(codec))
    outputs: dict[bool, list[Any]] = {True: [], False: []}
    for i in range(4):
        for boxed in (True, False):
            dcache.step(model, i)
            outputs[boxed] += walk(model, [10 - i], full(1), return_dict=boxed)
    assert all(type(output) is dict and output["kind"] == "dict" for output in outputs[True])
    assert all(type(output) is tuple for output in outputs[False])
    assert integers([output["sample"] for output in outputs[True]]) == [12, 12, 10, 10]
    assert integers([output[0] for output in outputs[False]]) == [12, 12, 10, 10]
    assert {output["sample"].dtype for output in outputs[True]} == {torch.float32}
    assert {output[0].dtype for output in outputs[False]} == {torch.float64}


def test_a_tensor_that_is_handed_on_is_no_output_to_remember_and_belongs_to_its_branch() -> None:
    model = Boxed().eval()
    session = session_on(model, every_2("value"))
    texts = {name: torch.full((1, 3, 4), float(i)) for i, name in enumerate(("a", "b"))}
    for i in range(4):
        for name, text in texts.items():
            dcache.step(model, i, branch=name)
            (output,) = walk(model, [10 - i], full(1), text=text)
            assert output["text"] is text
    # Of each branch the sample: 8 floats.
    assert session.stats().bytes_now == 2 * 8 * 4


@pytest.mark.parametrize(("codec", "expected"), [("value", [12, 12, 10, 10]), ("delta", [12, 13, 10, 11])])
def test_samples_may_come_and_go_as_a_list(codec: str, expected: list[int]) -> None:
    class Rows(nn.Module):
        """Z-Image's way: a list of pictures in, a list of pictures out."""

        def forward(self, x: list[torch.Tensor], timestep: Any) -> tuple[list[torch.Tensor]]:
            return ([2 * row + timestep for row in x],)

    model = Rows().eval()
    dcache.enable(model, every_2(codec))
    outputs = []
    for i in range(4):
        dcache.step(model, i)
        entry = 1.0 + i % 2
        with torch.no_grad():
            outputs += model([full(entry), full(entry + 100)], 10 - i)
    assert integers([rows[0] for rows in outputs]) == expected
    # A hundred more in the entry is two hundred in the output, and its change is a hundred of them.
    assert integers([rows[1] for rows in outputs]) == [value + 200 for value in expected]


def test_a_call_without_a_sample_is_remembered_by_nobody() -> None:
    for codec in ("value", "delta"):
        region, branch = region_on(codec), Branch("0", 1)
        assert region.run(Call(branch, 0, 0.0), lambda _: (None, 3), (full(1),), {})[0] == (None, 3)
        assert not region.has_history


@pytest.mark.parametrize("codec", ["delta", "delta:float16"])
def test_an_output_with_a_part_of_the_inputs_tokens_is_a_change_of_that_part(codec: str) -> None:
    model = Returns(lambda y: y[:, :1])
    dcache.enable(model, every_2(codec))
    found = []
    for i, entry in enumerate((1, 2, 3, 4)):
        dcache.step(model, i)
        # The second token is none of the output's.
        found += walk(model, [10 - i], torch.cat([full(entry)[:, :1], full(50)[:, :1]], dim=1))
    assert integers(found) == [12, 13, 14, 15]
    assert model.runs == 2
    assert dcache.stats(model).bytes_held == (4 if codec == "delta" else 2) * 4


def test_an_output_with_more_channels_than_the_input_is_a_change_in_those_of_the_input() -> None:
    model = Returns(lambda y: torch.cat([y, 10 * y], dim=-1))
    found = outputs(model, "delta", 1, 2, 3, 4)
    assert integers([y[..., :4] for y in found]) == [12, 13, 14, 15]
    assert integers([y[..., 4:] for y in found]) == [120, 120, 140, 140]


def test_an_output_of_another_form_is_no_change_of_the_input() -> None:
    model = Returns(lambda y: y[:, 0])
    with pytest.raises(DcacheError, match=r"maps \(1, 2, 4\) to \(1, 4\): use codec='value'"):
        outputs(model, "delta", 1)
    assert model.runs == 1
    model = Returns(lambda y: y[:, 0])
    assert integers(outputs(model, "value", 1, 2)) == [12, 12]


def test_neither_is_one_that_is_no_tensor() -> None:
    with pytest.raises(DcacheError, match=r"maps \(1, 2, 4\) to None: use codec='value'"):
        outputs(Returns(lambda y: ("first", y)), "delta", 1)


def test_without_an_input_there_is_no_change_and_nothing_is_remembered() -> None:
    region, branch = region_on("delta"), Branch("0", 1)
    with pytest.raises(DcacheError, match=r"maps None to \(1, 2, 4\)"):
        region.run(Call(branch, 0, 0.0), lambda: full(1), (), {})
    assert not region.has_history


def test_it_is_one_region() -> None:
    region = region_on("value")
    assert list(region.parts()) == [region]
