"""Keys: equal where outputs must be, different wherever they may be."""

from __future__ import annotations

from typing import Any

import torch

from dcache.time_memo.keys import Clock, Identities, Moments, numbers_in
from tests.time_memo.nets import draw, net

ALL = frozenset({"timestep", "pooled", "encoder_hidden_states"})


def moment(moments: Moments, time: Any, **kwargs: Any) -> Any:
    return moments.of((draw(0, 2, 8), time), kwargs, ALL)


def test_a_timestep_is_known_by_its_bits_shape_and_dtype() -> None:
    moments = Moments(net(), Clock(net()))
    key = moment(moments, torch.tensor([5.0])).time
    assert moment(moments, torch.tensor([5.0]).expand(1)).time == key
    others = (torch.tensor(5.0), torch.tensor([5.0, 5.0]), torch.tensor([5]), torch.tensor([5.5]), 5.0)
    assert len({key, *(moment(moments, other).time for other in others)}) == 1 + len(others)


def test_conditions_are_known_by_identity_and_small_ones_by_value() -> None:
    moments, time = Moments(net(), Clock(net())), torch.tensor([5.0])
    large = draw(1, 2, 64)
    key = moment(moments, time, pooled=large).key(ALL - {"encoder_hidden_states"}, "timestep")
    assert moment(moments, time, pooled=large).key(ALL - {"encoder_hidden_states"}, "timestep") == key
    assert (
        moment(moments, time, pooled=large.clone()).conditions
        != moment(moments, time, pooled=large).conditions
    )
    small = draw(1, 2, 8)
    assert (
        moment(moments, time, pooled=small.clone()).conditions
        == moment(moments, time, pooled=small).conditions
    )


def test_a_condition_that_was_written_to_is_another() -> None:
    moments, time, large = Moments(net(), Clock(net())), torch.tensor([5.0]), draw(1, 2, 64)
    before = moment(moments, time, pooled=large).conditions
    large.add_(1)
    assert moment(moments, time, pooled=large).conditions != before


def test_a_module_without_that_condition_has_no_key() -> None:
    moments = Moments(net(), Clock(net()))
    assert moment(moments, torch.tensor([5.0])).key(frozenset({"pooled", "timestep"}), "timestep") is None
    assert moment(moments, torch.tensor([5.0])).key(frozenset({"timestep"}), "timestep") is not None


def test_flags_and_autocast_are_part_of_every_key() -> None:
    moments, time = Moments(net(), Clock(net())), torch.tensor([5.0])
    plain = moment(moments, time).plain
    assert moment(moments, time, flag=True).plain != plain
    with torch.autocast("cpu", torch.bfloat16):
        assert moment(moments, time).plain != plain


def test_numbers_of_dead_tensors_are_told_and_not_used_again() -> None:
    identities = Identities()
    numbers = set()
    for _ in range(20):
        tensor = draw(0, 64)
        numbers.add(identities.of(tensor).number)
        del tensor
    assert len(numbers) == 20
    assert set(identities.dead) == numbers


def test_keys_name_the_tensors_they_hold() -> None:
    identities, tensor = Identities(), draw(0, 64)
    identity = identities.of(tensor)
    assert numbers_in((((5, identity), 3), "x")) == {identity.number}


def test_flags_have_names_and_types_and_are_seen_in_containers() -> None:
    moments, time = Moments(net(), Clock(net())), torch.tensor([5.0])
    calls = [
        {"first": True, "second": 0.5},
        {"first": 0.5, "second": True},
        {"second": 0.5, "third": True},
        {"first": 1, "second": 0.5},
        {"options": {"first": True, "second": 0.5}},
        {"options": [True, 0.5]},
    ]
    assert len({moment(moments, time, **given).plain for given in calls}) == len(calls)
    assert moment(moments, 5).time != moment(moments, 5.0).time


def test_a_condition_made_in_inference_mode_is_read() -> None:
    moments, time = Moments(net(), Clock(net())), torch.tensor([5.0])
    with torch.inference_mode():
        large = draw(1, 2, 64).clone()
        before = moment(moments, time, pooled=large).conditions
        assert moment(moments, time, pooled=large).conditions == before
        large.add_(1)
        assert moment(moments, time, pooled=large).conditions != before
