"""Calls on some frames: attention has to run through torch's function."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dcache.engine.frames import FrameGrid, FrameStore
from dcache.engine.lowering.frame_rows import FrameCall, FrameParts, FrameRows, parts_of
from dcache.errors import DcacheError
from dcache.sites.structure import Structure


def test_attention_by_other_means_is_refused() -> None:
    attention = nn.Identity()
    rows = FrameRows(FrameParts(nn.Identity(), [attention], (1, 1)))
    latents, timesteps = torch.zeros(1, 1, 4, 1, 1), torch.zeros(1, 4)
    store = FrameStore(FrameGrid(4, 2, 1), latents.clone(), timesteps.clone(), None)
    given = FrameCall({}, latents, timesteps, None)
    with pytest.raises(DcacheError, match=r"all 1 self-attentions must call torch's.*and 0 do"):
        rows.compute(store, [0], given, lambda hidden_states, timestep: hidden_states)
    assert rows.now is None


def test_the_positions_are_those_of_the_rows() -> None:
    rope = nn.Identity()
    rows = FrameRows(FrameParts(rope, [], (1, 1)))
    latents, timesteps = torch.zeros(1, 1, 4, 1, 1), torch.zeros(1, 4)
    store = FrameStore(FrameGrid(4, 2, 1), latents.clone(), timesteps.clone(), None)

    def inner(hidden_states: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        assert rows.now is not None
        table = rows.now.positions(lambda x: torch.arange(x.shape[2])[None, :, None], hidden_states)
        return table.flatten()

    given = FrameCall({}, latents, timesteps, None)
    assert rows.compute(store, [1], given, inner).tolist() == [2, 3]


def test_tokens_of_several_frames_are_refused() -> None:
    model = nn.Module()
    model.config = SimpleNamespace(num_frame_per_block=2, patch_size=(2, 1, 1))
    model.rope = nn.Identity()
    with pytest.raises(DcacheError, match="tokens of one frame each"):
        parts_of(Structure(model))
