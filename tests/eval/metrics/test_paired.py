import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.functional.image.lpips import learned_perceptual_image_patch_similarity
from torchvision import models

from dcache.errors import DcacheError
from dcache.eval.metrics import METRICS
from dcache.eval.metrics.base import Batch
from dcache.eval.metrics.options import MetricOptions
from dcache.eval.metrics.paired import lpips_weights
from dcache.eval.metrics.weights import hub_with

OPTIONS = MetricOptions(score_batch_size=3)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def rows(name, pictures, uncached, options=OPTIONS):
    read = METRICS[name].source.load(options).read
    return read(Batch(pictures, uncached, [""] * len(pictures)))


def tensor(pictures):
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


def test_psnr_of_an_error_of_one_level_everywhere_is_48_decibels():
    black = np.zeros((2, 8, 8, 3), np.uint8)
    off = black.copy()
    off[0] = 1

    # 20 log10(255) = 48.1308; no error at all is capped.
    assert rows("psnr", off, black) == pytest.approx(np.array([[48.1308], [100.0]]), abs=1e-4)


def test_ssim_is_that_of_torchmetrics():
    first, second = noise(5, 24, 24, 3), noise(5, 24, 24, 3, seed=1) // 2
    its = structural_similarity_index_measure(
        tensor(first).double(), tensor(second).double(), data_range=255.0, reduction="none"
    )

    assert rows("ssim", first, second)[:, 0] == pytest.approx(its.numpy(), abs=1e-5)


def test_a_clip_has_the_mean_of_its_frames_figures():
    clips, uncached = noise(2, 4, 16, 16, 3), noise(2, 4, 16, 16, 3, seed=1)
    frames = rows("ssim", clips.reshape(8, 16, 16, 3), uncached.reshape(8, 16, 16, 3))

    assert rows("ssim", clips, uncached)[:, 0] == pytest.approx(frames.reshape(2, 4).mean(axis=1))


def test_flicker_is_the_change_of_the_error_between_frames():
    black = np.zeros((1, 3, 4, 4, 3), np.uint8)
    blinking = black.copy()
    blinking[:, 1] = 6

    assert rows("flicker", blinking, black) == np.array([[6.0]])
    assert METRICS["flicker"].kinds == ("video",)


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save(models.squeezenet1_1(weights=None).state_dict(), path)
    return path


def test_lpips_is_that_of_torchmetrics_with_the_same_weights(squeezenet):
    first, second = noise(4, 64, 64, 3), noise(4, 64, 64, 3, seed=1)
    options = MetricOptions(lpips_net="squeeze", lpips_weights=squeezenet, score_batch_size=3)
    with hub_with(lpips_weights("squeeze").name, squeezenet):
        its = learned_perceptual_image_patch_similarity(
            tensor(first).float() / 127.5 - 1, tensor(second).float() / 127.5 - 1, "squeeze", "none"
        )

    mine = rows("lpips", first, second, options)
    assert mine.std() > 0
    assert mine[:, 0] == pytest.approx(its.numpy(), rel=1e-4)
    assert rows("lpips", first, first, options) == pytest.approx(np.zeros((4, 1)))


def test_weights_of_another_network_are_refused_with_their_name(squeezenet):
    with pytest.raises(DcacheError, match=r"mine\.pth holds other weights than .*alexnet"):
        METRICS["lpips"].source.load(MetricOptions(lpips_weights=squeezenet))
