"""Outputs and arguments as flat tensors and back."""

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import nn

from dcache.intercept.pytree import (
    argument_names,
    batch_of,
    copy_containers,
    first_tensor,
    flatten,
    gpus,
    named_arguments,
    rebuild,
    same,
    samples,
    signature,
    unpredictable,
)

Pair = namedtuple("Pair", "a b")


@dataclass(frozen=True)
class Output:
    a: Any
    b: Any = None


class Opaque:
    def __init__(self, a: Any) -> None:
        self.a = a


X, Y = torch.randn(2, 3), torch.randn(4)


@pytest.mark.parametrize(
    "output",
    [X, (X,), (X, Y), [X, Y], (None, X), (X, (Y, None)), {"a": X, "b": [Y]}, Pair(X, Y), (), (X, "s", 1),
     Transformer2DModelOutput(sample=X), Output(X), (X, Output([Y], Output(X))), SimpleNamespace(a=X, b=2)],
)  # fmt: skip
def test_rebuild_is_the_inverse_of_flatten(output):
    leaves, recipe = flatten(output)
    again = rebuild(leaves, recipe)
    assert type(again) is type(output)
    assert all(a is b for a, b in zip(flatten(again)[0], leaves, strict=True))
    assert flatten(again)[1] == recipe


def test_fields_of_dataclasses_are_leaves_and_those_of_other_classes_are_not():
    opaque = Opaque(Y)
    leaves, recipe = flatten((Output([X, "s"]), SimpleNamespace(c=Y), opaque))
    assert leaves == (X, "s", None, Y, opaque)
    again = rebuild(("x", "t", 1, "y", 2), recipe)
    assert again == (Output(["x", "t"], 1), SimpleNamespace(c="y"), 2)


@pytest.mark.parametrize(
    ("leaves", "what"),
    [
        ((X, None, True, 3, "s", torch.float16, Opaque([1])), ""),
        ((X, 0.5), "a float beside its tensors"),
        ((X, Opaque({"deep": [Opaque(Y)]})), "a Opaque, which dcache cannot take apart"),
        ((X, Y.numpy()), "a ndarray, which dcache cannot take apart"),
    ],
)
def test_what_a_prediction_can_return_again(leaves, what):
    assert unpredictable(leaves) == what


def test_outputs_are_compared_by_the_tensors_of_opaque_objects_too():
    assert same(Opaque(X), Opaque(X.clone())) == (0.0, True)
    assert same(Opaque(X), Opaque(2 * X))[0] > 0.4
    assert same(Opaque(X), Opaque(None)) == (float("inf"), False)


def test_copied_containers_hold_the_same_tensors():
    value = {"a": [X, (Y, {"b": X})], "c": X}
    copied = copy_containers(value)
    copied["a"].pop()
    copied.pop("c")
    assert list(value) == ["a", "c"]
    assert len(value["a"]) == 2
    assert value["a"][0] is copied["a"][0] is X


BASE = ((X, 3), {"mask": None, "extra": {"scale": X, "flags": [1, 2]}, "return_dict": False})


@pytest.mark.parametrize(
    "other",
    [
        ((X[:1], 3), BASE[1]),
        ((X.half(), 3), BASE[1]),
        ((X,), BASE[1]),
        (BASE[0], BASE[1] | {"mask": X}),
        (BASE[0], BASE[1] | {"return_dict": True}),
        (BASE[0], BASE[1] | {"extra": {"scale": X[:1], "flags": [1, 2]}}),
        (BASE[0], BASE[1] | {"extra": {"scale": X, "flags": [1, 3]}}),
        (BASE[0], BASE[1] | {"extra": {"scale": X}}),
        (BASE[0], BASE[1] | {"more": 1}),
        (BASE[0], {k: v for k, v in BASE[1].items() if k != "mask"}),
        ((X.to("meta"), 3), BASE[1]),
    ],
)
def test_signatures_differ_where_histories_must_not_be_shared(other):
    assert signature(*other) != signature(*BASE)


@pytest.mark.parametrize(
    "other",
    [((X * 2, 3), BASE[1]), ((X, 7.5), BASE[1]), ((X, 0), BASE[1]), ((torch.empty(2, 3), 3), BASE[1])],
)
def test_signatures_agree_where_only_values_changed(other):
    assert signature(*other) == signature(*BASE)
    assert hash(signature(*other)) == hash(signature(*BASE))


def test_argument_names():
    def forward(a, /, b, *rest, c, **more):
        return a

    assert argument_names(forward) == ["a", "b"]
    assert argument_names(nn.Linear(1, 1).forward) == ["input"]
    assert argument_names(3) == []


def test_arguments_by_place_get_their_names():
    assert named_arguments(nn.Bilinear(1, 1, 1), (5,), {"input2": 6}) == {"input1": 5, "input2": 6}
    assert named_arguments(nn.Linear(1, 1), (), {}) == {}


def test_distance_of_outputs():
    assert same((X, None, "s"), (X.clone(), None, "s")) == (0.0, True)
    distance, alike = same(torch.full((4,), 2.0), torch.full((4,), 2.5))
    assert alike
    assert distance == pytest.approx(0.25)
    assert same((X, torch.ones(2)), (X, torch.zeros(2)))[0] == pytest.approx(1)
    assert same(X, X * float("nan")) == (float("inf"), True)
    assert same(X, X[:1]) == (float("inf"), False)
    assert same((X,), (X, Y)) == (float("inf"), False)
    assert same((X, None), (X, Y)) == (float("inf"), False)


def test_the_sample_is_the_first_argument_that_is_a_tensor_or_a_list_of_tensors():
    assert first_tensor((None, X, Y), {"a": Y}) is X
    assert samples((None, X, Y), {"a": Y}) == (X,)
    # Z-Image's latents come as a list, in front of the timestep.
    assert first_tensor((3, [X, Y], Y), {}) is X
    assert samples(([X, Y], Y), {})[1] is Y
    # What holds anything else, or nothing, is no sample.
    assert first_tensor((3, [X, 1], [], {"a": X}), {"flag": True, "a": Y, "b": X}) is Y
    assert first_tensor((), {}) is None


def test_a_batch_is_one_tensor():
    assert batch_of((None, X, Y), {}) is X
    assert batch_of((), {"a": X}) is X
    # Items of a list are rows, whose own first dimension is no batch.
    assert batch_of(([X], Y), {}) is None
    assert batch_of((3,), {}) is None


def test_tensors_of_the_host_lie_on_no_gpu():
    assert gpus(X, [Y, {"a": X}], 3) == []


def test_a_copy_is_of_plain_containers_only():
    pair = Pair([X], Y)
    assert copy_containers(pair) is pair
    copied = copy_containers((X, [Y]))
    assert type(copied) is tuple
    assert type(copied[1]) is list


def test_a_sample_is_known_by_its_name_in_any_order_of_keywords() -> None:
    x, text = torch.ones(1, 4), torch.zeros(1, 3)
    assert first_tensor((), {"encoder_hidden_states": text, "hidden_states": x}) is x
    assert first_tensor((text,), {"sample": x}) is x
    assert first_tensor((), {"encoder_hidden_states": text, "image": x}) is text
    assert first_tensor((x,), {"encoder_hidden_states": text}) is x
