import numpy as np
import pytest
import torch

from dcache.eval.metrics.base import Batch, framewise, identity


def levels(batch):
    return batch.pictures[:, 0, 0, :1].astype(np.float32)


def test_networks_never_see_more_pictures_than_they_may():
    seen = []

    def read(batch):
        seen.append((len(batch.pictures), len(batch.uncached), len(batch.prompts)))
        return levels(batch)

    clips = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1).repeat(3, axis=-1)
    rows = framewise(read, 4)(Batch(clips, clips, ["a", "b"]))

    assert seen == [(4, 4, 4), (2, 2, 2)]
    assert rows.tolist() == [[1.0], [4.0]]


def test_a_clip_of_one_frame_is_a_picture():
    clips = np.full((2, 1, 4, 4, 3), 7, np.uint8)

    assert framewise(levels, 8)(Batch(clips, None, ["", ""])).tolist() == [[7.0], [7.0]]


@pytest.mark.parametrize("other", [("name", 2), ("name", 1, "x"), ("other", 1)])
def test_other_settings_have_another_identity(other):
    assert identity("name", 1) == identity("name", 1)
    assert identity("name", 1) != identity(*other)


def test_gpus_of_several_processes_share_an_identity_and_the_cpu_has_its_own():
    first, second, cpu = (identity("name", device=device) for device in ("cuda:0", "cuda:1", "cpu"))

    assert first == second != cpu


def test_weights_of_any_dtype_are_part_of_an_identity():
    network = torch.nn.BatchNorm1d(2).to(torch.bfloat16)
    before = identity("name", network=network)
    network.num_batches_tracked += 1

    assert identity("name", network=network) != before
