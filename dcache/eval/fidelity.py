"""Fidelity to the uncached pictures (PSNR, SSIM, flicker), and detection of broken pictures.

Pictures are (N, H, W, 3), clips (N, F, H, W, 3). Figures of a clip are means over its frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

CAP = 100.0
# Dimensions of an array of pictures, and of one of clips.
PICTURE, CLIP = 4, 5


def broken(pictures: NDArray[np.float32], beside: NDArray[np.uint8] | None = None) -> str | None:
    """The fault of pictures or clips in [0, 1], in words; None if there is none.

    Pictures with NaN or infinity are broken. Constant pictures are broken if the uncached picture is not
    constant; without uncached pictures, only if all pictures are constant, because one black picture may come
    from a safety checker.

    Args:
        pictures: the pictures, float.
        beside: the uncached pictures of the same prompts and seeds.
    """
    count, what = len(pictures), "clips" if pictures.ndim == CLIP else "pictures"
    unreal = sum(not np.isfinite(p).all() for p in pictures)
    if unreal:
        return f"{unreal} of {count} {what} contain NaN or infinity"
    constant = [_constant(p) for p in to_uint8(pictures)]
    expected = [_constant(p) for p in beside] if beside is not None else [not all(constant)] * count
    wrong = sum(here and not there for here, there in zip(constant, expected, strict=True))
    return f"{wrong} of {count} {what} are constant" if wrong else None


def _constant(picture: NDArray[np.uint8]) -> bool:
    return bool(picture.max() == picture.min())


def to_uint8(pictures: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pixels as diffusers rounds them for a PIL image; NaN becomes 0."""
    pixels: NDArray[np.uint8] = (np.nan_to_num(pictures).clip(0, 1) * 255).round().astype(np.uint8)
    return pixels


def psnr(pictures: NDArray[np.uint8], reference: NDArray[np.uint8]) -> list[float]:
    """PSNR of each picture in dB, capped at 100; for a clip the mean over its frames."""

    def measure(picture: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
        return decibels(float(((picture.astype(np.float64) - other) ** 2).mean()), peak=255)

    return _each(measure, pictures, reference)


def decibels(error: float, peak: float = 1.0) -> float:
    """PSNR in dB of a mean squared error, capped at 100.

    Args:
        error: mean squared error of pixels from 0 to `peak`.
        peak: largest possible pixel value.
    """
    return min(10 * math.log10(peak**2 / error), CAP) if error else CAP


def squared_errors(pictures: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) mean squared error of each unrounded picture or clip, clipped to [0, 1]; NaN stays NaN."""
    errors: NDArray[np.float64] = (pictures.clip(0, 1) - reference.clip(0, 1)) ** 2
    return errors.reshape(len(pictures), -1).mean(axis=1)


def ssim(pictures: NDArray[np.uint8], reference: NDArray[np.uint8]) -> list[float]:
    """SSIM of each picture (11 x 11 Gaussian window, sigma 1.5), by torchmetrics; of a clip the mean."""
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    def similarity(*both: NDArray[np.uint8]) -> float:
        first, second = (torch.from_numpy(p[None]).permute(0, 3, 1, 2).float() for p in both)
        return float(structural_similarity_index_measure(first, second, data_range=255.0))  # type: ignore[arg-type]

    return _each(similarity, pictures, reference)


def flicker(clips: NDArray[np.uint8], reference: NDArray[np.uint8]) -> list[float]:
    """Mean absolute change of each clip's error from frame to frame, in levels of 255.

    A constant error does not count; PSNR measures it.

    >>> black = np.zeros((1, 3, 4, 4, 3), np.uint8)
    >>> flicker(black + np.uint8(9), black)
    [0.0]
    >>> bright_in_the_middle = black.copy()
    >>> bright_in_the_middle[:, 1] = 6
    >>> flicker(bright_in_the_middle, black)
    [6.0]
    """
    error = clips.astype(np.int16) - reference
    return [float(value) for value in np.abs(np.diff(error, axis=1)).mean(axis=(1, 2, 3, 4))]


def _each(
    measure: Callable[[NDArray[np.uint8], NDArray[np.uint8]], float],
    pictures: NDArray[np.uint8],
    reference: NDArray[np.uint8],
) -> list[float]:
    """Measure one picture at a time, because SSIM needs ten maps of each; for a clip the mean over frames."""
    pairs = zip(*(p.reshape(-1, *p.shape[-3:]) for p in (pictures, reference)), strict=True)
    values = np.array([measure(picture, other) for picture, other in pairs])
    return [float(value) for value in values.reshape(len(pictures), -1).mean(axis=1)]
