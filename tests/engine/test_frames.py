"""Blocks of frames by hand: which are due, which keys they read, and what is stored of them."""

from __future__ import annotations

import pytest
import torch

from dcache.engine.frames import FrameGrid, FrameStore

# Three blocks of two frames, a token each.
GRID = FrameGrid(6, 2, 1)


def store() -> FrameStore:
    latents, timesteps = torch.zeros(1, 1, 6, 1, 1), torch.zeros(1, 6)
    return FrameStore(GRID, latents, timesteps, None)


def test_a_block_is_live_while_its_frames_are_updated_and_finished_behind_that() -> None:
    # Block 1 begins an evaluation after block 0 and ends one later; block 2 follows.
    rows = [[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]]
    updates = [[bool(live) for live in row for _ in range(2)] for row in rows]
    dues = GRID.due(updates)
    assert [due.live for due in dues] == [[0], [0, 1], [1, 2], [2]]
    assert [due.finished for due in dues] == [0, 0, 1, 2]


def test_of_240_frame_rows_128_run() -> None:
    pipelines = pytest.importorskip("diffusers.pipelines.skyreels_v2")
    make = pipelines.SkyReelsV2DiffusionForcingPipeline.generate_timestep_matrix
    # Twelve steps, five blocks of two frames, each three steps behind the one before.
    table = make(None, 10, torch.linspace(999, 40, 12).long(), 10, 3, 0, 2)[2].tolist()
    grid, clean, rows = FrameGrid(10, 2, 1), 0, 0
    for due in grid.due(table):
        rows += 2 * (len(due.live) + due.finished - clean)
        clean = due.finished
    assert len(table) * 10 == 240
    assert rows == 128


def test_a_prefix_is_finished_from_the_start_and_a_frame_makes_its_block_live() -> None:
    updates = [[False, False, False, True, False, False]]
    assert GRID.due(updates) == [([1], 1)]


def test_rows_read_their_own_block_and_those_before_it() -> None:
    assert GRID.mask([2], torch.device("cpu")) is None
    mask = GRID.mask([0, 2], torch.device("cpu"))
    assert mask is not None
    # Queries 0 and 1 are of block 0, 2 and 3 of block 2.
    assert mask[0, 0].int().tolist() == [[1, 1, 0, 0, 0, 0]] * 2 + [[1] * 6] * 2
    assert GRID.rows([0, 2], torch.device("cpu")).index.tolist() == [0, 1, 4, 5]


def test_keys_and_values_lie_at_their_rows_and_are_read_up_to_the_last_block() -> None:
    held, cpu = store(), torch.device("cpu")
    first, second = (torch.full((1, 1, 2, 1), value) for value in (1.0, 2.0))
    held.attend(0, GRID.rows([0], cpu), 1, first, -first)
    keys, values = held.attend(0, GRID.rows([1], cpu), 2, second, -second)
    assert keys.flatten().tolist() == [1.0, 1.0, 2.0, 2.0]
    assert values.flatten().tolist() == [-1.0, -1.0, -2.0, -2.0]
    # Two buffers of six rows, latents and timesteps.
    assert [t.numel() for t in held.tensors()] == [6, 6, 6, 6]


def test_the_prefix_is_the_same_up_to_the_first_block_with_other_latents_or_timesteps() -> None:
    held, latents, timesteps = store(), torch.arange(6.0).view(1, 1, 6, 1, 1), torch.arange(6.0)[None]
    held.note([0, 1, 2], latents, timesteps)
    assert held.same_prefix(3, latents, timesteps) == 3
    other = latents.clone()
    other[:, :, 4] += 1
    assert held.same_prefix(3, other, timesteps) == 2
    assert held.same_prefix(2, other, timesteps) == 2
    later = timesteps.clone()
    later[:, 0] += 1
    assert held.same_prefix(3, latents, later) == 0


def test_changes_are_relative_to_when_a_block_was_computed() -> None:
    held, latents = store(), torch.full((1, 1, 6, 1, 1), 2.0)
    held.note([1], latents, torch.zeros(1, 6))
    moved = latents.clone()
    moved[:, :, 2] = 3.0
    assert held.changes([0, 1], moved) == [float("inf"), 0.25]


def test_a_fork_keeps_the_first_blocks_in_the_same_memory() -> None:
    held, cpu = store(), torch.device("cpu")
    ones = torch.ones(1, 1, 4, 1)
    held.attend(0, GRID.rows([0, 1], cpu), 2, ones, ones)
    held.note([0, 1], torch.ones(1, 1, 6, 1, 1), torch.ones(1, 6))
    fork = held.fork(1)
    assert fork.stored == {0}
    assert fork.clean == 1
    assert fork.keys[0].data_ptr() == held.keys[0].data_ptr()
    assert fork.same_prefix(1, torch.ones(1, 1, 6, 1, 1), torch.ones(1, 6)) == 1


def test_a_store_fits_calls_of_its_shape_and_condition() -> None:
    held = store()
    latents, text = torch.ones(1, 1, 6, 1, 1), torch.ones(1, 2, 3)
    assert held.fits(latents, None)
    assert not held.fits(latents, text)
    held.text = text
    assert held.fits(latents, text.clone())
    assert not held.fits(latents, text + 1)
    assert not held.fits(latents[:, :, :4], text)
