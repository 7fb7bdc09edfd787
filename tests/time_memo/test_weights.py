"""Weights leave and come back as they were."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dcache.errors import DcacheError
from dcache.time_memo.checkpoint import Checkpoint
from dcache.time_memo.weights import Weights, stamp


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2).requires_grad_(False)


def dropped(tmp_path: Path) -> tuple[nn.Linear, Weights]:
    module = layer()
    save_file(
        {f"part.{name}": tensor for name, tensor in module.state_dict().items()}, tmp_path / "w.safetensors"
    )
    checkpoint = Checkpoint(dict.fromkeys(("part.weight", "part.bias"), tmp_path / "w.safetensors"))
    weights = Weights("part", module, checkpoint)
    weights.leave()
    return module, weights


def test_on_the_host_parameters_stay_the_same_objects_with_the_same_stamp() -> None:
    module = layer()
    before, marks, kept = list(module.parameters()), stamp(module), module.weight.clone()
    weights = Weights("part", module)
    weights.leave()
    assert weights.are_away
    assert weights.nbytes == (6 + 2) * 4
    assert stamp(module) == marks
    assert torch.equal(module.state_dict()["weight"], kept)
    weights.come_back()
    assert not weights.are_away
    assert all(x is y for x, y in zip(module.parameters(), before, strict=True))


@pytest.mark.parametrize("mark", ["_hf_hook", "_diffusers_hook"])
def test_what_others_move_is_left_alone(mark: str) -> None:
    module = layer()
    setattr(module, mark, object())
    weights = Weights("part", module)
    weights.leave()
    assert not weights.are_away


def test_dropped_weights_hold_one_number_and_are_read_again(tmp_path: Path) -> None:
    module, weights = dropped(tmp_path)
    assert module.weight.shape == (2, 3)
    assert module.weight.untyped_storage().nbytes() == 4
    weights.come_back()
    assert torch.equal(module.weight, layer().weight)
    assert torch.equal(module.bias, layer().bias)
    assert set(module.state_dict()) == {"weight", "bias"}
    assert torch.equal(module(torch.ones(3)), layer()(torch.ones(3)))


def test_dropped_weights_are_never_given_away_silently(tmp_path: Path) -> None:
    module, _weights = dropped(tmp_path)
    for use in (module.state_dict, lambda: module(torch.ones(3)), lambda: deepcopy(module)(torch.ones(3))):
        with pytest.raises(DcacheError, match="were dropped"):
            use()


def test_a_stamp_changes_with_the_weights() -> None:
    module = layer()
    marks = [stamp(module)]
    module.weight.add_(1)
    marks.append(stamp(module))
    module.weight = nn.Parameter(module.weight.clone())
    marks.append(stamp(module))
    module.bfloat16()
    marks.append(stamp(module))
    assert len(set(marks)) == 4
