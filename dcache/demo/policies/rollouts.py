"""An animation of rollouts side by side, with a bar of what the setting reached."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcache.util import files

GREEN, GREY = (46, 160, 67), (160, 160, 160)
BAR = 8
# Milliseconds of a picture: two control steps of a tenth of a second at twice the speed.
DURATION = 100


def save(path: Path, rollouts: Sequence[Sequence[NDArray[np.uint8]]], success: Sequence[bool]) -> Path:
    """Write a GIF.

    Args:
        path: the file.
        rollouts: pictures of each rollout, all of one size; a shorter one stands still at its end.
        success: whether each was solved: its bar turns green when it is over.
    """
    from PIL import Image

    length = max(map(len, rollouts))
    pictures = []
    for at in [*range(0, length, 2), length - 1]:
        columns = [
            _column(frames[min(at, len(frames) - 1)], solved and at >= len(frames) - 1)
            for frames, solved in zip(rollouts, success, strict=True)
        ]
        pictures.append(Image.fromarray(np.concatenate(columns, 1)).quantize(64))
    first, *others = pictures
    return files.write(
        path,
        lambda temporary: first.save(
            temporary, save_all=True, append_images=others, duration=DURATION, loop=0, optimize=True
        ),
    )


def _column(frame: NDArray[np.uint8], solved: bool) -> NDArray[np.uint8]:
    """A picture at a third of its size above a bar, with a white edge to the right."""
    small = frame[::3, ::3] if frame.shape[0] > 300 else frame
    bar = np.full((BAR, small.shape[1], 3), GREEN if solved else GREY, np.uint8)
    column = np.concatenate([small, bar])
    return np.concatenate([column, np.full((len(column), 4, 3), 255, np.uint8)], 1)
