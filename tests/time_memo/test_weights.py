"""Weights leave and come back as they were."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers.hooks import apply_group_offloading
from safetensors.torch import save_file
from torch import nn

from dcache.errors import DcacheError
from dcache.time_memo.checkpoint import Checkpoint
from dcache.time_memo.state import State
from dcache.time_memo.weights import Weights, holders_of


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


def test_on_the_host_parameters_stay_the_same_objects_and_that_is_no_change() -> None:
    module = layer()
    before, state, kept = list(module.parameters()), State(), module.weight.clone()
    state.watch([module])
    weights = Weights("part", module)
    weights.leave()
    assert weights.are_away
    assert weights.nbytes == (6 + 2) * 4
    assert not state.changed
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


@pytest.mark.parametrize("remainder", [0, 20])
def test_weights_that_are_read_again_lie_like_those_that_were_dropped(remainder: int, tmp_path: Path) -> None:
    # A matrix product of the CPU may round otherwise at an address with another remainder.
    module, line = layer(), 64
    for tensor in module.parameters():
        room = torch.zeros(3 * line, dtype=torch.uint8)
        begin = (remainder - room.data_ptr()) % line
        tensor.data = room[begin : begin + tensor.nbytes].view(torch.float32).view(tensor.shape).copy_(tensor)
    before = {name: tensor.clone() for name, tensor in module.named_parameters()}
    # Names of several lengths, so that the file's tensors lie at several places.
    for i in range(8):
        names = {f"{'x' * i}.{name}": tensor for name, tensor in before.items()}
        save_file(names, tmp_path / "w.safetensors")
        weights = Weights("x" * i, module, Checkpoint(dict.fromkeys(names, tmp_path / "w.safetensors")))
        weights.leave()
        weights.come_back()
        for name, tensor in module.named_parameters():
            assert tensor.data_ptr() % line == remainder
            assert torch.equal(tensor, before[name])


def test_dropped_weights_are_never_given_away_silently(tmp_path: Path) -> None:
    module, _weights = dropped(tmp_path)
    for use in (module.state_dict, lambda: module(torch.ones(3)), lambda: deepcopy(module)(torch.ones(3))):
        with pytest.raises(DcacheError, match="were dropped"):
            use()


def test_dropped_weights_are_no_change_and_come_back_rounded_as_they_were(tmp_path: Path) -> None:
    module, weights = dropped(tmp_path)
    state = State()
    state.watch([module])
    weights.come_back()
    assert not state.changed
    module.bfloat16()
    weights.leave()
    module.float()
    weights.come_back()
    assert torch.equal(module.weight, layer().weight.bfloat16().float())


def test_an_interrupt_between_two_weights_leaves_nothing_half_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, weights = dropped(tmp_path)
    weights.come_back()
    whole, calls = torch.full, list[int]()

    def full(*args: object, **kwargs: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*args, **kwargs)

    monkeypatch.setattr(torch, "full", full)
    with pytest.raises(KeyboardInterrupt):
        weights.leave()
    with pytest.raises(DcacheError, match="were dropped"):
        module(torch.ones(3))
    weights.come_back()
    assert torch.equal(module(torch.ones(3)), layer()(torch.ones(3)))


def test_weights_that_another_layer_is_tied_to_stay() -> None:
    model = nn.Sequential(layer(), layer(), layer())
    model[1].weight = model[0].weight
    for name, away in (("0", False), ("1", False), ("2", True)):
        weights = Weights(name, model.get_submodule(name))
        weights.place(model, holders_of(model))
        weights.leave()
        assert weights.are_away is away


def test_weights_in_a_block_that_diffusers_offloads_are_left_to_it() -> None:
    model = nn.Sequential(nn.Sequential(layer()), nn.Sequential(layer()))
    apply_group_offloading(model[0], torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1)
    for name, away in (("0.0", False), ("1.0", True)):
        weights = Weights(name, model.get_submodule(name))
        weights.place(model, holders_of(model))
        weights.leave()
        assert weights.are_away is away
