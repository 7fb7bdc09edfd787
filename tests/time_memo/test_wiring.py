"""Calls of modules can be made anew from what they were called with."""

from __future__ import annotations

import torch
from torch import nn

from dcache.time_memo.keys import Clock, Moments
from dcache.time_memo.wiring import Argument, Derived, DerivedInputs, ObservedCall, Output, wire
from tests.time_memo.nets import draw, net

TIME = frozenset({"timestep"})


def test_tensors_are_arguments_outputs_or_derived() -> None:
    pooled, scaled, first = draw(0, 2), draw(1, 2), draw(2, 2)
    calls = [
        ObservedCall("a", nn.SiLU(), ((pooled, 3), {"x": scaled}), [first], (frozenset({"pooled"}), TIME)),
        ObservedCall("b", nn.SiLU(), ((first,), {}), draw(3, 2), (TIME,)),
    ]
    nodes = wire(calls, {"pooled": pooled})
    assert nodes["a"].leaves == (Argument("pooled"), 3, Derived(TIME))
    assert nodes["b"].leaves == (Output("a", 0),)
    assert nodes["a"].arguments([1, 2, 4]) == ((1, 2), {"x": 4})


def test_outputs_are_counted_among_tensors() -> None:
    # `Ahead` takes them from the tensors of an output that is made anew.
    second = draw(1, 2)
    calls = [
        ObservedCall("a", nn.SiLU(), ((draw(0, 2),), {}), (None, draw(2, 2), 5, second), (TIME,)),
        ObservedCall("b", nn.SiLU(), ((second,), {}), draw(3, 2), (TIME,)),
    ]
    assert wire(calls, {})["b"].leaves == (Output("a", 1),)


def test_a_derived_tensor_is_found_at_its_timestep_only() -> None:
    scaled, moments = draw(1, 2), Moments(net(), Clock(net()))
    node = wire([ObservedCall("a", nn.SiLU(), ((scaled,), {}), None, (TIME,))], {})["a"]
    early, late = (moments.of((draw(0, 2, 8), torch.tensor([t])), {}, TIME) for t in (1.0, 2.0))
    derived = DerivedInputs()
    derived.note(node, ((scaled,), {}), early, "timestep")
    assert derived.find(node, 0, TIME, early, "timestep") is scaled
    assert derived.find(node, 0, TIME, late, "timestep") is None


def test_what_depends_on_a_prompt_is_not_remembered() -> None:
    mixed, pooled, moments = draw(1, 2), draw(2, 2, 64), Moments(net(), Clock(net()))
    sources = frozenset({"timestep", "pooled"})
    node = wire([ObservedCall("a", nn.SiLU(), ((mixed,), {}), None, (sources,))], {})["a"]
    moment = moments.of((draw(0, 2, 8), torch.tensor([1.0])), {"pooled": pooled}, sources)
    derived = DerivedInputs()
    derived.note(node, ((mixed,), {}), moment, "timestep")
    assert derived.find(node, 0, sources, moment, "timestep") is None
