"""Streams in two groupings, checked against the reshapes of Latte."""

import pytest
import torch

from dcache.sites.regroup import regroup, regrouped_size


def test_frames_of_tokens_become_tokens_of_frames_and_back() -> None:
    # 2 videos of 3 frames with 4 tokens of 5 channels.
    video = torch.arange(120).view(2, 3, 4, 5)
    spatial, temporal = video.reshape(6, 4, 5), video.transpose(1, 2).reshape(8, 3, 5)
    assert torch.equal(regroup(spatial, 3), temporal)
    assert torch.equal(regroup(temporal, 4), spatial)
    assert regrouped_size(spatial.shape, temporal.shape) == 3
    assert regrouped_size(temporal.shape, spatial.shape) == 4


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((6, 4, 5), (8, 3, 6)),
        ((6, 4, 5), (6, 4)),
        ((6, 4), (8, 3)),
        ((6, 4, 5), (4, 6, 4)),
        ((6, 4, 5), (12, 2, 4)),
        ((6, 4, 5), (5, 5, 5)),
        ((6, 4, 5), (0, 0, 5)),
    ],
)
def test_other_shapes_are_no_regrouping(before: tuple[int, ...], after: tuple[int, ...]) -> None:
    assert regrouped_size(before, after) is None


def test_one_frame_alone_is_a_regrouping_too() -> None:
    assert regrouped_size((2, 4, 5), (8, 1, 5)) == 1
