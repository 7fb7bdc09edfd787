"""What a call writes into its arguments: seen afterwards, and undone where a call is made once more."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from dcache.intercept.effects import Effects, undone


class Layer:
    """Keys of one layer, as GLM-Image and Qwen-Image 2.1 hold them."""

    def __init__(self) -> None:
        self.keys: list[torch.Tensor] = []
        self.last: torch.Tensor | None = None
        self.count = 0


class Cache:
    def __init__(self) -> None:
        self.layers = [Layer(), Layer()]
        self.owner = self


X = torch.zeros(1, 2)


def arguments() -> dict[str, Any]:
    return {
        "sample": torch.zeros(1, 2),
        "timestep": torch.ones(1),
        "cache": Cache(),
        "buffers": {0: {"k": torch.zeros(2, 2)}},
        "flags": {"is_write": True, "chunk": 0},
        "empty": {},
        "extra": {"scale": 1.0, "mask": X},
        "residuals": [X, X],
        "tokens": [1, 2],
        "names": {"a"},
        "ring": deque([X, X + 1], maxlen=2),
        "pair": (X, [X]),
    }


WRITES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a tensor in place": lambda a: a["timestep"].add_(1),
    "a slice of a buffer": lambda a: a["buffers"][0]["k"][:1].copy_(X),
    "another shape": lambda a: a["timestep"].resize_(3),
    "an item appended": lambda a: a["cache"].layers[1].keys.append(X),
    "an item of a list replaced": lambda a: a["residuals"].__setitem__(0, X + 1),
    "a number in a list": lambda a: a["tokens"].__setitem__(0, 7),
    "an attribute": lambda a: setattr(a["cache"].layers[0], "last", X),
    "a counter": lambda a: setattr(a["cache"].layers[0], "count", 1),
    "a new attribute": lambda a: setattr(a["cache"], "rope", X),
    "an entry of a dict": lambda a: a["extra"].__setitem__("keys", X),
    "a number beside tensors": lambda a: a["extra"].__setitem__("scale", 2.0),
    "an empty dict filled": lambda a: a["empty"].__setitem__("length", 3),
    "a set": lambda a: a["names"].add("b"),
    "a full ring": lambda a: a["ring"].append(X),
    "a list in a tuple": lambda a: a["pair"][1].append(X),
    "one in and two out": lambda a: (a["residuals"].clear(), a["residuals"].append(X + 1)),
}
NO_WRITES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nothing": lambda a: None,
    "the sample in place": lambda a: a["sample"].mul_(2),
    "a plain entry popped": lambda a: a["extra"].pop("scale"),
    "a residual popped": lambda a: a["residuals"].pop(0),
    "flags completed": lambda a: a["flags"].update(tokens=4, chunk=1),
    "the same value again": lambda a: setattr(a["cache"].layers[0], "count", 0),
}


@pytest.mark.parametrize("name", WRITES)
def test_it_is_seen(name: str) -> None:
    given = arguments()
    effects = Effects((), given)
    assert not effects.written()
    WRITES[name](given)
    assert effects.written()


@pytest.mark.parametrize("name", NO_WRITES)
def test_it_does_not_count(name: str) -> None:
    given = arguments()
    effects = Effects((given["sample"],), given)
    NO_WRITES[name](given)
    assert not effects.written()


def test_every_tensor_of_a_list_of_samples_may_be_written_into() -> None:
    latents = [torch.zeros(1), torch.zeros(1)]
    effects = Effects((latents, torch.ones(1)), {})
    latents[1].add_(1)
    assert not effects.written()


def test_without_versions_the_contents_tell() -> None:
    with torch.inference_mode():
        buffer = torch.zeros(3, 4).t()[1:]
        given = {"buffer": buffer, "scalar": torch.tensor(1.0), "timestep": torch.tensor(3).expand(1)}
        effects = Effects((torch.zeros(1),), given)
        assert not effects.written()
        buffer[0, 0] = 1.0
        assert effects.written()


def test_tensors_without_data_have_shapes_alone() -> None:
    assert not Effects((X,), {"meta": torch.zeros(2, device="meta")}).written()


def test_more_parts_than_can_be_watched_may_have_been_written_into() -> None:
    effects = Effects((X,), {"parts": [object() for _ in range(10_001)]})
    assert not effects.complete
    assert effects.written()
    # Plain items are no parts: a list of token ids may be long.
    assert Effects((X,), {"ids": list(range(20_000))}).complete


@pytest.mark.parametrize("name", list(WRITES)[3:])
def test_containers_and_attributes_are_put_back(name: str) -> None:
    # The first three are done to tensors, which stay as they were left.
    given, untouched = arguments(), arguments()
    with undone((), given) as written:
        WRITES[name](given)
        assert written()
    assert shape_of(given) == shape_of(untouched)


def test_what_was_popped_is_put_back_too() -> None:
    given = arguments()
    with undone((), given):
        assert given["residuals"].pop() is X
    assert len(given["residuals"]) == 2


def test_an_error_inside_undoes_as_well() -> None:
    given = arguments()

    def fail() -> None:
        given["cache"].layers[0].keys.append(X)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), undone((), given):
        fail()
    assert given["cache"].layers[0].keys == []


def shape_of(value: Any, depth: int = 6) -> Any:
    """The whole of the arguments as plain values."""
    if depth == 0:
        return None
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: shape_of(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple | deque):
        return [shape_of(item, depth - 1) for item in value]
    if isinstance(value, Cache | Layer):
        return shape_of(vars(value), depth - 1)
    return value


def test_contents_tell_where_a_write_leaves_no_trace() -> None:
    given = {"buffer": torch.zeros(4, 2), "bits": torch.zeros(3, dtype=torch.bool)}
    effects = Effects((X,), given)
    version = given["buffer"]._version
    given["buffer"].data.copy_(torch.tensor([[1.0, 0.0]]).expand(4, 2))
    assert given["buffer"]._version == version
    assert effects.written()
    # Values that change places have the same sum.
    effects = Effects((X,), given)
    given["buffer"].data.copy_(given["buffer"].flip(1))
    assert effects.written()
    effects = Effects((X,), given)
    given["bits"].data[1] = True
    assert effects.written()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64, torch.float8_e4m3fn, torch.int8])
def test_contents_are_read_in_every_dtype(dtype: torch.dtype) -> None:
    given = {"buffer": torch.zeros(4, dtype=torch.float32).to(dtype)}
    effects = Effects((X,), given)
    assert not effects.written()
    given["buffer"].data = torch.ones(4).to(dtype)
    assert effects.written()


def test_large_tensors_are_known_by_version_alone_unless_they_have_none() -> None:
    large = torch.zeros(2**24 + 1, dtype=torch.uint8)
    effects = Effects((X,), {"keys": large})
    large.data[0] = 1
    assert not effects.written()
    large[0] = 2
    assert effects.written()
    with torch.inference_mode():
        large = torch.zeros(2**24 + 1, dtype=torch.uint8)
        effects = Effects((X,), {"keys": large})
        large[-1] = 1
        assert effects.written()


def test_tensors_of_other_layouts_have_shape_and_version() -> None:
    sparse = torch.eye(3).to_sparse()
    effects = Effects((X,), {"sparse": sparse})
    assert not effects.written()
    sparse.zero_()
    assert effects.written()


@pytest.mark.parametrize("value", [np.zeros(3), np.array([None, 1], dtype=object), np.zeros(())], ids=str)
def test_arrays_are_seen_and_put_back(value: np.ndarray[Any, Any]) -> None:
    before = value.copy()
    with undone((), {"cache": {"sums": value}}) as written:
        assert not written()
        value[...] = 7
        assert written()
    assert (value == before).all()


def test_what_a_function_does_cannot_be_seen() -> None:
    entries: list[int] = []

    class Store:
        def put(self, item: int) -> None:
            entries.append(item)

    for function in (entries.append, lambda: None, Store().put, partial(Store().put, 1)):
        effects = Effects((X,), {"extra": {"on_block": function}})
        assert effects.calls_back
        assert effects.written()
    # An object may have functions for its own use.
    store = Store()
    store.key = lambda x: x  # type: ignore[attr-defined]
    assert not Effects((X,), {"store": store}).written()
