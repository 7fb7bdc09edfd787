"""How close pictures are to the uncached ones, and whether they are pictures at all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CAP = 100.0


def broken(pictures: NDArray[np.float32]) -> str | None:
    """Say what is wrong with pictures (N, H, W, 3) in [0, 1], or None."""
    count = len(pictures)
    unreal = sum(not np.isfinite(p).all() for p in pictures)
    if unreal:
        return f"{unreal} of {count} pictures contain NaN or infinity"
    constant = sum(int(p.max() == p.min()) for p in to_uint8(pictures))
    return f"{constant} of {count} pictures are constant" if constant else None


def to_uint8(pictures: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round as diffusers does when it makes a PIL image."""
    pixels: NDArray[np.uint8] = (np.nan_to_num(pictures).clip(0, 1) * 255).round().astype(np.uint8)
    return pixels


def psnr(pictures: NDArray[np.uint8], reference: NDArray[np.uint8]) -> list[float]:
    """PSNR of each picture in dB, capped at 100."""
    error = ((pictures.astype(np.float64) - reference) ** 2).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return [float(value) for value in np.minimum(10 * np.log10(255**2 / error), CAP)]


def ssim(pictures: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Mean SSIM on uint8 (11 x 11 Gaussian window, sigma 1.5), by torchmetrics."""
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    first, second = (torch.from_numpy(p).permute(0, 3, 1, 2).double() for p in (pictures, reference))
    value = structural_similarity_index_measure(first, second, data_range=255.0)
    return float(torch.as_tensor(value))
