"""The configuration: checked when made, and what it says of a model or run it was not made for."""

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from torch import nn

from dcache import DcacheError, methods
from dcache.engine.config import LOWERINGS, SessionConfig
from dcache.identity.denoisers import config_digest
from dcache.identity.run import Run
from tests.engine.tiny_models import Toy

METHOD = methods.interval(interval=2)


class Configured(Toy):
    """A model with a config, as diffusers' have."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.config = {"layers": layers, "_name_or_path": f"/somewhere/{layers}"}


def made_for(module: nn.Module, **more: Any) -> SessionConfig:
    """A configuration whose method was made for this model."""
    method = replace(METHOD, made_for=(type(module).__name__, config_digest(module)))
    return SessionConfig(method, made_with="the schedule", **more)


def test_the_lowering_is_checked_and_the_rest_cannot_change() -> None:
    for lowering in LOWERINGS:
        assert SessionConfig(METHOD, lowering=lowering).lowering == lowering
    with pytest.raises(DcacheError, match="lowering must be 'auto' or 'replay', got 'fast'"):
        SessionConfig(METHOD, lowering="fast")
    with pytest.raises(FrozenInstanceError):
        SessionConfig(METHOD).strict = True  # type: ignore[misc]


def test_the_model_it_was_made_for_differs_in_nothing() -> None:
    config = made_for(Configured(3))
    assert list(config.differences_of_module(Configured(3))) == []
    # A method that was made for no model in particular fits any.
    assert list(SessionConfig(METHOD).differences_of_module(Configured(9))) == []


def test_another_config_and_another_class_are_named() -> None:
    config, here, there = made_for(Configured(3)), config_digest(Configured(3)), config_digest(Configured(4))
    assert list(config.differences_of_module(Configured(4))) == [
        f"the schedule was made with config {here} and is used with {there}"
    ]
    # A model without a config says nothing of it.
    assert list(config.differences_of_module(Toy())) == [
        "the schedule was made with model Configured and is used with Toy"
    ]


def test_strict_refuses_what_would_be_a_warning() -> None:
    config = made_for(Configured(3), strict=True)
    assert list(config.differences_of_module(Configured(3))) == []
    with pytest.raises(DcacheError, match=r"made with config .* and is used with .* \(strict=True\)"):
        list(config.differences_of_module(Configured(4)))


@pytest.mark.parametrize(
    ("sampler", "guidance", "here", "scale", "expected"),
    [
        ("Euler", 3.5, "Euler", 3.5, []),
        ("Euler", 3.5, "Heun", 3.5, ["sampler Euler and is used with Heun"]),
        ("Euler", 3.5, "Euler", 7.0, ["guidance 3.5 and is used with 7"]),
        (
            "Euler", 3.5, "Heun", 7.0,
            ["sampler Euler and is used with Heun", "guidance 3.5 and is used with 7"],
        ),
        # What is not known on either side is no difference.
        ("", None, "Heun", 7.0, []),
        ("Euler", 3.5, "", None, []),
        # Nor is what is written alike: six digits.
        ("Euler", 3.5, "Euler", 3.50000001, []),
    ],
)  # fmt: skip
def test_another_sampler_or_guidance_scale_is_named(
    sampler: str, guidance: float | None, here: str, scale: float | None, expected: list[str]
) -> None:
    config = SessionConfig(METHOD, made_with="the schedule", sampler=sampler, guidance=guidance)
    differences = list(config.differences_of_run(Run(sampler=here), scale))
    assert differences == [f"the schedule was made with {text}" for text in expected]
    strict = replace(config, strict=True)
    if expected:
        with pytest.raises(DcacheError, match=r"strict=True"):
            list(strict.differences_of_run(Run(sampler=here), scale))
    else:
        assert list(strict.differences_of_run(Run(sampler=here), scale)) == []
