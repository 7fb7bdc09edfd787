"""What editors complete is what there is."""

import inspect
from dataclasses import fields
from typing import get_args

import pytest

from dcache import DcacheError, lm_kv
from dcache.lm_kv import options, registry
from dcache.lm_kv.budgets.allocation import ALLOCATIONS


def test_the_names_are_those_of_the_policies():
    assert set(get_args(options.PolicyName)) == set(lm_kv.available("policy"))
    assert get_args(options.Allocation) == ALLOCATIONS


def test_the_options_are_those_of_the_presets_and_of_every_policy():
    presets = [getattr(lm_kv, name) for name in lm_kv.available("policy")]
    takes = {option for preset in presets for option in inspect.signature(preset).parameters}
    assert set(options.PolicyOptions.__annotations__) == takes | set(registry.SHARED)
    assert set(options.CacheOptions.__annotations__) == set(registry.SHARED)
    assert set(registry.SHARED) <= {field.name for field in fields(lm_kv.Policy)}
    assert set(registry.SHARED) <= set(inspect.signature(lm_kv.KVCache).parameters)


@pytest.mark.parametrize("value", ["x", (), float("nan")], ids=repr)
@pytest.mark.parametrize(
    ("policy", "option"),
    [("zipcache", "bits"), ("zipcache", "low"), ("windowkv", "best"), ("keyformer", "seed"),
     ("keyformer", "growth"), ("random", "seed"), ("d2o", "ratio")],
)  # fmt: skip
def test_options_of_another_kind_are_refused(policy, option, value):
    with pytest.raises(DcacheError, match=option):
        lm_kv.make(policy, budget=0.5, **{option: value})
