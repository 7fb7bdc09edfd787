"""Foreground tokens of a predicted noise: those far from the mean in its first principal components.

ProfilingDiT projects the predicted noise on three principal components and runs a segmentation model for the
mask. Here Otsu's threshold on the distance from the mean replaces the segmentation model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

COMPONENTS = 3


def foreground(tokens: torch.Tensor) -> NDArray[np.bool_]:
    """The mask of the foreground tokens.

    Args:
        tokens: (N, C), the predicted noise of one picture or clip.

    Returns:
        (N,) bool; all False if all tokens are equal.
    """
    x = tokens.detach().to("cpu", torch.float64).numpy()
    x = x - x.mean(axis=0)
    # Scores of the components: projections on the right singular vectors.
    left, sizes, _ = np.linalg.svd(x, full_matrices=False)
    scores = left[:, :COMPONENTS] * sizes[:COMPONENTS]
    far = np.sqrt((scores**2).sum(axis=1))
    return np.asarray(far > otsu(far))


def otsu(values: NDArray[np.float64]) -> float:
    """Otsu's threshold (1979): the split of the values with the largest variance between the two classes.

    Exact, without a histogram: all splits of the sorted values are compared. Returns the largest value of the
    lower class.
    """
    ordered = np.sort(values)
    count = len(ordered)
    lower = np.arange(1, count)
    sums = np.cumsum(ordered)
    means = (sums[:-1] / lower, (sums[-1] - sums[:-1]) / (count - lower))
    between = lower * (count - lower) * (means[1] - means[0]) ** 2
    # Equal values belong to the same class.
    between[ordered[1:] == ordered[:-1]] = -1.0
    if count < 2 or between.max() < 0:
        return float(ordered[-1])
    return float(ordered[int(np.argmax(between))])


def patches(prediction: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Tokens of a prediction, in the order of a patch embedding: row by row, for a clip frame by frame.

    Args:
        prediction: (B, C, H, W) or (B, C, F, H, W).
        sizes: patch size, one number for each dimension after the channels.

    Returns:
        (B, N, C * product of `sizes`).
    """
    batch, channels, *extents = prediction.shape
    split = [part for extent, size in zip(extents, sizes, strict=True) for part in (extent // size, size)]
    count = len(sizes)
    outer, inner = [2 + 2 * i for i in range(count)], [3 + 2 * i for i in range(count)]
    cut = prediction.reshape(batch, channels, *split).permute(0, *outer, 1, *inner)
    return cut.flatten(1 + count).flatten(1, count)


def preference(masses: NDArray[np.float64], mask: NDArray[np.bool_], top: float) -> float:
    """R: share of the foreground tokens that are among the tokens with the most attention.

    Args:
        masses: (N,), attention received by each token.
        mask: (N,), True for foreground tokens; at least one.
        top: share of all tokens that counts as those with the most attention; rounded to one token or more.
    """
    most = np.argsort(-masses, kind="stable")[: max(1, round(top * len(masses)))]
    return float(mask[most].sum() / mask.sum())
