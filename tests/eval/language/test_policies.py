"""Policies and budgets on a command line."""

import pytest

from dcache import lm_kv
from dcache.errors import DcacheError
from dcache.eval.language.policies import budgets_of, fitting, parse
from tests.lm_kv.language_models import family


def test_names_in_any_spelling_with_their_options() -> None:
    first, second = parse("SnapKV:window=16,pool=1; kvzip:budget=64")
    assert first.policy == lm_kv.snapkv(window=16, pool=1)
    assert first.label == "snapkv window=16 pool=1"
    assert first.file_name == "snapkv-window=16-pool=1"
    assert first.at(0.25).budget == 0.25
    # A budget of its own stays.
    assert second.at(0.25).budget == 64


def test_a_codec_is_another_policy_with_its_bits() -> None:
    plain, two = parse("kvzip:codec=kivi; kvzip:codec=kivi2")
    assert plain.policy == lm_kv.make("kvzip", codec=lm_kv.kivi())
    assert two.policy == lm_kv.make("kvzip", codec=lm_kv.kivi(bits=2))
    assert two.label == "kvzip codec=kivi2"


def test_all_is_every_policy_with_the_same_options() -> None:
    entries = parse("all:dense_layers=0")
    assert [entry.policy.name for entry in entries] == list(lm_kv.available("policy"))
    assert all(entry.policy.dense_layers == (0,) for entry in entries)
    assert len(parse("all; snapkv:window=16")) == len(entries) + 1


def test_layers_that_stay_dense_are_one_or_several() -> None:
    one, several = parse("kvzip:dense_layers=0;kvzip:dense_layers=0+3")
    assert (one.policy.dense_layers, several.policy.dense_layers) == ((0,), (0, 3))
    assert several.label == "kvzip dense_layers=0+3"


def test_a_policy_of_all_that_the_model_cannot_have_is_left_out_and_a_named_one_refused() -> None:
    # The positions of GPT-2 are learned, so its keys cannot be turned.
    model = family("gpt2")
    possible, left_out = fitting(model, parse("all; snapkv:window=4"), [0.5])
    labels = [entry.label for entry in possible]
    assert {*labels, *left_out} == {*lm_kv.available("policy"), "snapkv window=4"}
    assert {"a2ats", "streaming_llm"} <= set(left_out)
    assert {"h2o", "snapkv", "snapkv window=4"} <= set(labels)
    assert "something other than a rotation" in left_out["a2ats"]
    with pytest.raises(DcacheError, match=r"^a2ats codes=8: layer 0 of GPT2Model"):
        fitting(model, parse("h2o; a2ats:codes=8"), [0.5])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names none"),
        (" ; ", "names none"),
        ("snapvk", "Did you mean 'snapkv'"),
        ("snapkv:windows=3", "window"),
        ("kvzip;kvzip", "more than once"),
        ("snapkv:window", "window"),
        ("kvzip:dense_layers=first", "dense_layers"),
        ("kvzip:codec=kivy4", "Did you mean 'kivi'"),
        ("kvzip:codec=kivi5", "bits"),
    ],
)
def test_what_is_no_policy_is_named(text: str, message: str) -> None:
    with pytest.raises(DcacheError, match=message):
        parse(text)


def test_budgets_are_shares_or_tokens() -> None:
    assert budgets_of("1.0,1, 0.5,1e-1") == [1.0, 1, 0.5, 0.1]
    assert [type(budget) for budget in budgets_of("1.0,1")] == [float, int]


@pytest.mark.parametrize("text", ["", ",", "0", "0.0", "-1", "1.5", "nan", "a", "0.5;0.25", "0.5,0.50"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(DcacheError, match="--budgets"):
        budgets_of(text)
