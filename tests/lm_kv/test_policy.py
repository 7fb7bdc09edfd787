import dataclasses

import pytest

from dcache import DcacheError, lm_kv
from dcache.lm_kv.codecs.shadow import ShadowCodec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.scoring.observers import QueryMoments
from dcache.lm_kv.scoring.scorers import KeyDistance, Reconstruction


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("budget", 1.5, "budget must be"),
        ("held", 2.0, "held must be a float"),
        ("sinks", -1, "sinks must be a whole number of at least 0"),
        ("sinks", True, "sinks must be"),
        ("every", 1.5, "every must be"),
        ("window", -1, "window must be"),
        ("window", 0.6, r"window must be a whole number of tokens or a float in \[0, 0.5\]"),
        ("allocation", "head", "preference, coverage, got 'head'"),
        ("positions", "cache", "positions must be one of original, shifted"),
        ("floor", 1.5, "floor must be a number from 0 to 1"),
        ("dense_layers", [0], "dense_layers must be a tuple"),
    ],
)
def test_a_field_outside_its_range_is_refused(field, value, message):
    with pytest.raises(DcacheError, match=message):
        Policy(scorer=KeyDistance(), **{field: value})


@pytest.mark.parametrize("name", ["quest", "rekv", "actqkv"])
@pytest.mark.parametrize("allocation", ["heads", "layers", "global"])
def test_what_is_read_is_not_allocated_as_what_is_kept(name, allocation):
    refusal = rf"{name} keeps all tokens.*leave its allocation as it is, got '{allocation}'"
    with pytest.raises(DcacheError, match=refusal):
        lm_kv.make(name, budget=0.5, allocation=allocation)


def test_a_policy_is_frozen_and_equal_to_one_with_the_same_parts():
    policy = Policy(scorer=KeyDistance())
    assert policy == Policy(scorer=KeyDistance())
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.sinks = 3


def test_it_says_when_it_must_wait_for_all_layers():
    assert not Policy(scorer=KeyDistance(), allocation="heads").after_forward
    assert Policy(scorer=KeyDistance(), allocation="global").after_forward
    assert Policy(scorer=Reconstruction()).after_forward


def test_it_says_when_the_models_rotation_must_be_known():
    assert not Policy(scorer=KeyDistance()).needs_rotary
    assert Policy(scorer=KeyDistance(), positions="shifted").needs_rotary
    assert Policy(scorer=KeyDistance(), observer=QueryMoments()).needs_rotary
    assert Policy(scorer=KeyDistance(), codec=ShadowCodec(4, 8, 0)).needs_rotary


def test_positions_are_followed_where_stored_keys_are_turned():
    assert not Policy(scorer=KeyDistance(), observer=QueryMoments()).follows_positions
    assert Policy(scorer=KeyDistance(), positions="shifted").follows_positions
    assert Policy(scorer=KeyDistance(), codec=ShadowCodec(4, 8, 0)).follows_positions
    assert lm_kv.xkv().follows_positions
    assert not lm_kv.minicache().follows_positions
