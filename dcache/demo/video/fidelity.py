"""What only clips have: how much a clip flickers against the uncached one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dcache.demo.video.clips import FRAMES


def as_clips(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames one after another, (N * 9, H, W, 3), as clips (N, 9, H, W, 3)."""
    return frames.reshape(-1, FRAMES, *frames.shape[1:])


def flicker(clips: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """How much the error changes from frame to frame: mean absolute value, in levels of 255.

    An error that stands still counts nothing here: PSNR has it already.

    >>> black = np.zeros((1, 3, 4, 4, 3), np.uint8)
    >>> flicker(black + np.uint8(9), black)
    0.0
    >>> bright_in_the_middle = black.copy()
    >>> bright_in_the_middle[:, 1] = 6
    >>> flicker(bright_in_the_middle, black)
    6.0
    """
    error = clips.astype(np.int16) - reference
    return float(np.abs(np.diff(error, axis=1)).mean())
