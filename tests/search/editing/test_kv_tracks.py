"""Keys and values of one call in another: a call's own change nothing, others' do where they are meant to."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import dcache
from dcache.errors import DcacheError, DcacheWarning
from dcache.search.editing.kv_tracks import Tracks
from tests.pipelines import SHAPES, Shape


def run(shape: Shape, pipe: Any, seed: int = 1) -> torch.Tensor:
    """The latents; another seed is another prompt and noise."""
    return shape.run(pipe, num_inference_steps=3, seed=seed)


@pytest.fixture(params=["pixart", "flux"])
def shape(request: pytest.FixtureRequest) -> Shape:
    return SHAPES[request.param]


def test_all_of_a_calls_own_and_none_of_anothers_change_no_bit(shape: Shape) -> None:
    pipe = shape.build()
    source, other = run(shape, pipe), run(shape, pipe, seed=2)
    with dcache.capturing(pipe) as tracks:
        assert torch.equal(run(shape, pipe), source)
    with dcache.injecting(pipe, tracks):
        assert torch.equal(run(shape, pipe), source)
        changed = run(shape, pipe, seed=2)
    assert not torch.equal(changed, other)
    with dcache.capturing(pipe, steps=()) as empty:
        run(shape, pipe)
    assert len(empty) == 0
    with dcache.injecting(pipe, empty):
        assert torch.equal(run(shape, pipe, seed=2), other)
    assert torch.equal(run(shape, pipe, seed=2), other)


def test_tracks_are_those_of_the_sites_and_steps(shape: Shape) -> None:
    pipe = shape.build()
    with dcache.capturing(pipe, "kv:0,1-2", steps=(1, 2)) as tracks:
        run(shape, pipe)
    assert {place[2] for place in tracks.tensors} == {0, 1, 2}
    assert {place[0] for place in tracks.tensors} == {1, 2}
    branches = {place[1] for place in tracks.tensors}
    assert len(tracks) == 2 * 2 * 3 * len(branches)
    assert tracks.bytes == sum(t.numel() * 4 for t in tracks.tensors.values())


def test_tokens_outside_the_mask_keep_their_own() -> None:
    shape = SHAPES["pixart"]
    pipe = shape.build()
    other = run(shape, pipe, seed=2)
    with dcache.capturing(pipe) as tracks:
        run(shape, pipe)
    tokens = next(iter(tracks.tensors.values())).shape[1]
    with dcache.injecting(pipe, tracks, rows=torch.zeros(tokens, dtype=torch.bool)):
        assert torch.equal(run(shape, pipe, seed=2), other)
    with dcache.injecting(pipe, tracks):
        every = run(shape, pipe, seed=2)
    with dcache.injecting(pipe, tracks, rows=torch.ones(1, tokens, dtype=torch.bool)):
        assert torch.equal(run(shape, pipe, seed=2), every)
    with (
        pytest.raises(DcacheError, match="mask of the picture's"),
        dcache.injecting(pipe, tracks, rows=torch.ones(3)),
    ):
        run(shape, pipe)


def test_the_texts_tokens_of_a_joint_sequence_are_never_replaced() -> None:
    shape = SHAPES["flux"]
    pipe = shape.build()
    with dcache.capturing(pipe) as tracks:
        run(shape, pipe)
    sizes = {place[2]: t.shape[1] for place, t in tracks.tensors.items()}
    picture, joint = min(sizes.values()), max(sizes.values())
    assert joint > picture
    depth = next(depth for depth, size in sizes.items() if size == joint)
    for place, t in tracks.tensors.items():
        if t.shape[1] == joint:
            tracks.tensors[place] = torch.cat(
                [torch.full_like(t[:, : joint - picture], 9.0), t[:, -picture:]], 1
            )
    with dcache.injecting(pipe, tracks, f"kv:{depth}"), dcache.capturing(pipe, f"kv:{depth}") as after:
        run(shape, pipe)
    # What was captured stands in front of what injects, and sees what it returns.
    assert after.tensors
    assert not any((t == 9.0).any() for t in after.tensors.values())


def test_rows_of_one_batch_go_in_step() -> None:
    shape = SHAPES["pixart"]
    pipe = shape.build()
    with dcache.injecting(pipe, rows={0: 0}):
        same = run(shape, pipe)
    assert torch.equal(same, run(shape, pipe))
    with dcache.injecting(pipe, rows={0: 1}):
        assert not torch.equal(run(shape, pipe), same)
    with pytest.raises(DcacheError, match="names batch rows up to 99"), dcache.injecting(pipe, rows={0: 99}):
        run(shape, pipe)


def test_what_fits_nothing_is_said() -> None:
    shape = SHAPES["pixart"]
    pipe = shape.build()
    with dcache.capturing(pipe, "kv:0") as tracks:
        run(shape, pipe)
    with pytest.warns(DcacheWarning, match="nothing was injected"), dcache.injecting(pipe, tracks, "kv:1"):
        run(shape, pipe)
    with pytest.raises(DcacheError, match="takes the tracks"), dcache.injecting(pipe):
        pass
    place = next(iter(tracks.tensors))
    tracks.tensors[place] = tracks.tensors[place][:, :1]
    with pytest.raises(DcacheError, match="the same number and size"), dcache.injecting(pipe, tracks):
        run(shape, pipe)


def test_a_block_in_which_nothing_is_captured_is_said() -> None:
    shape = SHAPES["pixart"]
    pipe = shape.build()
    pipe.transformer.fuse_qkv_projections()
    with pytest.warns(DcacheWarning, match="nothing was captured"), dcache.capturing(pipe):
        run(shape, pipe)


@pytest.mark.parametrize("rows", [{-1: 0}, {1: -1}, {"a": 0}, {1: 0.5}, [True], True])
def test_rows_that_are_neither_mask_nor_batch_rows_are_refused(rows: Any) -> None:
    tracks = None if isinstance(rows, dict) else Tracks()
    with pytest.raises(DcacheError, match="rows must"), dcache.injecting(object(), tracks, rows=rows):
        pass


@pytest.mark.parametrize(
    ("name", "options"), [("sites", {"sites": ["kv:0"]}), ("steps", {"steps": 3}), ("steps", {"steps": [-1]})]
)
def test_sites_and_steps_of_other_kinds_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(DcacheError, match=name), dcache.capturing(object(), **options):
        pass


def test_a_mask_of_other_batch_rows_is_refused() -> None:
    shape = SHAPES["pixart"]
    pipe = shape.build()
    with dcache.capturing(pipe) as tracks:
        run(shape, pipe)
    count = next(iter(tracks.tensors.values())).shape[1]
    rows = torch.ones(7, count, dtype=torch.bool)
    with pytest.raises(DcacheError, match="batch rows"), dcache.injecting(pipe, tracks, rows=rows):
        run(shape, pipe)
