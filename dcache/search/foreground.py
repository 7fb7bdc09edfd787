"""Which tokens of a predicted noise are the foreground's: those that stand out in its first components.

ProfilingDiT projects the predicted noise on three principal components and lets a segmenter draw the mask. A
segmenter is a model of its own; in its place Otsu's threshold splits the tokens by how far from their mean
they lie in these components.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

COMPONENTS = 3


def foreground(tokens: torch.Tensor) -> NDArray[np.bool_]:
    """The mask of the tokens that stand out.

    Args:
        tokens: (N, C), the predicted noise of one picture or clip.

    Returns:
        (N,), none of them where all tokens are alike.
    """
    x = tokens.detach().to("cpu", torch.float64).numpy()
    x = x - x.mean(axis=0)
    # The components' scores are what projecting on the first right singular vectors gives.
    left, sizes, _ = np.linalg.svd(x, full_matrices=False)
    scores = left[:, :COMPONENTS] * sizes[:COMPONENTS]
    far = np.sqrt((scores**2).sum(axis=1))
    return np.asarray(far > otsu(far))


def otsu(values: NDArray[np.float64]) -> float:
    """The threshold that splits values into two classes whose means differ most (Otsu 1979).

    Exact, without a histogram: among all splits of the sorted values the one with the largest variance
    between the classes; the threshold is the lower class's largest value.
    """
    ordered = np.sort(values)
    count = len(ordered)
    lower = np.arange(1, count)
    sums = np.cumsum(ordered)
    means = (sums[:-1] / lower, (sums[-1] - sums[:-1]) / (count - lower))
    between = lower * (count - lower) * (means[1] - means[0]) ** 2
    # A split between equal values is none.
    between[ordered[1:] == ordered[:-1]] = -1.0
    if count < 2 or between.max() < 0:
        return float(ordered[-1])
    return float(ordered[int(np.argmax(between))])


def patches(prediction: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Tokens of a prediction, in the order of a patch embedding: row by row, of a clip frame by frame.

    Args:
        prediction: (B, C, H, W) or (B, C, F, H, W).
        sizes: of a patch, one for each dimension behind the channels.

    Returns:
        (B, N, C times a patch's points).
    """
    batch, channels, *extents = prediction.shape
    split = [part for extent, size in zip(extents, sizes, strict=True) for part in (extent // size, size)]
    count = len(sizes)
    outer, inner = [2 + 2 * i for i in range(count)], [3 + 2 * i for i in range(count)]
    cut = prediction.reshape(batch, channels, *split).permute(0, *outer, 1, *inner)
    return cut.flatten(1 + count).flatten(1, count)


def preference(masses: NDArray[np.float64], mask: NDArray[np.bool_], top: float) -> float:
    """R: which share of the foreground's tokens is among the `top` share of those that receive most.

    Args:
        masses: (N,), attention that each token receives.
        mask: (N,), True where the foreground is.
        top: a share of the tokens, at least one.
    """
    most = np.argsort(-masses, kind="stable")[: max(1, round(top * len(masses)))]
    return float(mask[most].sum() / mask.sum())
