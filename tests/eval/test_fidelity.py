"""PSNR, SSIM, flicker and the word `broken`, against cases computed by hand and torchmetrics."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from dcache.eval.fidelity import broken, flicker, psnr, ssim, to_uint8


def test_the_bytes_of_a_constant_error_give_the_psnr_by_hand() -> None:
    black = np.zeros((2, 4, 4, 3), np.uint8)
    off = black.copy()
    off[1] = 1
    assert psnr(off, black) == [100.0, pytest.approx(20 * math.log10(255))]


def test_the_psnr_of_a_clip_is_the_mean_over_its_frames() -> None:
    black = np.zeros((1, 2, 4, 4, 3), np.uint8)
    off = black.copy()
    off[0, 1] = 1
    assert psnr(off, black) == [pytest.approx((100.0 + 20 * math.log10(255)) / 2)]


def test_ssim_is_that_of_each_picture() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8) for _ in range(2))
    second[0] = first[0]
    found = ssim(first, second)
    assert found[0] == pytest.approx(1.0)
    for i in (1, 2):
        one, two = (torch.from_numpy(p[i : i + 1]).permute(0, 3, 1, 2).double() for p in (first, second))
        by_hand = structural_similarity_index_measure(one, two, data_range=255.0)
        assert found[i] == pytest.approx(float(by_hand), abs=1e-4)
    clips = ssim(first[None], second[None])
    assert clips == [pytest.approx(np.mean(found))]


def test_flicker_is_how_much_the_error_moves() -> None:
    black = np.zeros((2, 3, 4, 4, 3), np.uint8)
    off = black + np.uint8(9)
    off[1, 1] = 15
    assert flicker(off, black) == [0.0, 6.0]


@pytest.mark.parametrize(
    ("value", "word"), [(np.nan, "NaN"), (np.inf, "NaN"), (0.5, "constant"), (2.0, "constant")]
)
@pytest.mark.parametrize("shape", [(2, 16, 16, 3), (2, 3, 16, 16, 3)])
def test_broken_output_is_told(value: float, word: str, shape: tuple[int, ...]) -> None:
    good = np.random.default_rng(0).random(shape, np.float32)
    assert broken(good) is None
    plain = to_uint8(good)
    good[1] = value
    found = broken(good, plain)
    assert found is not None
    assert found.startswith("1 of 2 " + ("clips" if len(shape) == 5 else "pictures"))
    assert word in found


def test_pixels_are_rounded_as_pil_images_are() -> None:
    values = np.array([-1, 0, 0.0019, 0.002, 0.5, 1, 2, np.nan], np.float32)
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 128, 255, 255, 0]


def test_a_picture_that_is_constant_without_caching_too_is_not_broken() -> None:
    pictures = np.random.default_rng(0).random((3, 8, 8, 3), np.float32)
    pictures[1] = 0.0
    assert broken(pictures) is None
    assert broken(pictures, to_uint8(pictures)) is None
    assert broken(np.zeros_like(pictures)) == "3 of 3 pictures are constant"
    assert broken(np.zeros_like(pictures), to_uint8(pictures)) == "2 of 3 pictures are constant"
