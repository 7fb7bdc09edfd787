"""The text of a bench's settings."""

import pytest

import dcache
from dcache.demo.policies.sampling import Sampler
from dcache.demo.policies.settings import DEFAULT, parse


def no_profile(steps: int):
    raise dcache.DcacheError(f"no profile of {steps}")


def test_a_setting_is_a_sampler_a_method_and_a_start() -> None:
    plain, both = parse("ddpm:100;  ddim:10   interval:interval=2,sites=model warm=3 ")
    assert (plain.spec, plain.sampler, plain.method, plain.warm) == (
        "ddpm:100",
        Sampler("ddpm", 100),
        None,
        None,
    )
    assert both.spec == "ddim:10 interval:interval=2,sites=model warm=3"
    assert (both.sampler, both.warm) == (Sampler("ddim", 10), 3)
    assert both.resolved(no_profile).rule == dcache.methods.interval(interval=2).rule


def test_one_setting_is_not_run_twice() -> None:
    assert [setting.spec for setting in parse("ddim:5; ddim:10; ddim:5")] == ["ddim:5", "ddim:10"]


def test_planned_methods_ask_for_a_profile_of_their_steps() -> None:
    for method in ("bac:computes=3", "knapsack:speedup=2"):
        (setting,) = parse(f"ddim:7 {method}")
        with pytest.raises(dcache.DcacheError, match="no profile of 7"):
            setting.resolved(no_profile)


def test_the_defaults_are_valid() -> None:
    settings = parse(DEFAULT)
    assert settings[0].sampler == Sampler("ddpm", 100)
    for setting in settings:
        if setting.method is not None and not setting.method.startswith(("bac", "knapsack", "pairs")):
            assert setting.resolved(no_profile) is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected settings"),
        ("interval:interval=2", "begins with a sampler"),
        ("ddim:10 newton interval", "one method"),
        ("ddim:10 warm=11", "1 to 10 evaluations"),
        ("ddim:10 warm=x", "1 to 10 evaluations"),
    ],
)
def test_wrong_texts(text: str, message: str) -> None:
    with pytest.raises(dcache.DcacheError, match=message):
        parse(text)
