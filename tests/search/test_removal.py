"""Errors without a block: those of blocks that add a number are its square."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dcache import methods
from dcache.errors import DcacheError
from dcache.eval.subject import load
from dcache.identity.denoisers import config_digest
from dcache.profile import Profile
from dcache.search.removal import errors_of, with_removal
from tests.laws.product import seen


class Adds(nn.Module):
    """Adds a number to the second stream, and returns both in the other order."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, text: torch.Tensor, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return text, hidden + self.number


class Sum(nn.Module):
    """Blocks in a row."""

    def __init__(self, *numbers: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(map(Adds, numbers))

    def forward(self, hidden: torch.Tensor, scale: float) -> torch.Tensor:
        text = hidden.new_zeros(1, 7)
        for block in self.blocks:
            text, hidden = block(text, hidden)
        return scale * hidden


def test_the_error_is_the_square_of_what_a_block_adds_and_none_is_left_behind() -> None:
    model = Sum(2.0, 0.0, -3.0)
    # Two branches, the second scaled by two: its squares count four times.
    calls = [((torch.ones(2, 3), scale), {}) for scale in (1.0, 2.0)]
    assert errors_of(model, list(model.blocks), calls) == [4.0 * 2.5, 0.0, 9.0 * 2.5]
    assert not any(module._forward_hooks for module in model.modules())


def test_a_block_whose_output_continues_nothing_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    with pytest.raises(DcacheError, match="Linear cannot be removed"):
        errors_of(model, [model[0]], [((torch.ones(1, 2),), {})])


def test_yume_takes_the_least_of_a_profile_and_its_file(tmp_path: Path) -> None:
    profile = replace(seen(4), removal={"block:0": 3.0, "block:1": 1.0, "block:2": 2.0, "block:3": 1.0})
    assert methods.yume(profile=profile, share=0.25).sites == ("block:1",)
    assert methods.yume(profile=profile, share=0.75).sites == ("run:1-3",)
    path = profile.save(tmp_path / "some.profile.safetensors")
    assert Profile.load(path).removal == profile.removal
    assert methods.yume(profile=path, share=0.75) == methods.yume(profile=profile, share=0.75)
    with pytest.raises(DcacheError, match="--removal"):
        methods.yume(profile=seen(4))
    with pytest.raises(DcacheError, match="at most 1"):
        methods.yume(profile=profile, share=1.5)
    with pytest.raises(DcacheError, match="above 0"):
        methods.yume(profile=profile, share=0.0)


@pytest.mark.slow
def test_of_a_pipeline_every_block_has_an_error() -> None:
    subject = load("demo", guidance=3.0, device="cpu", steps=2)
    name, module = "transformer", subject.pipe.transformer
    of = {"model": type(module).__name__, "config": config_digest(module), "guidance": 3.0}
    profile = replace(seen(2), component=name, made={"sampling_steps": 2}, **of)
    measured = with_removal(subject, profile, ["a red circle"])
    assert list(measured.removal) == [f"block:{i}" for i in range(12)]
    assert min(measured.removal.values()) > 0
    with pytest.raises(DcacheError, match="at least one prompt"):
        with_removal(subject, profile, [])
