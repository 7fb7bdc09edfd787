"""Reads a caption's attributes from a clip by plain image processing: nothing here is trained."""

import numpy as np
from numpy.typing import NDArray

from dcache.demo.video.clips import DIRECTIONS, DISTANCES, GROUNDS, PALETTE, RADII, SHAPES, SIDE

Floats = NDArray[np.float64]

# A frame without an object this large (pixels) has none.
SMALLEST = 15
_ys, _xs = np.mgrid[:SIDE, :SIDE] + 0.5


def read(clips: NDArray[np.floating] | NDArray[np.uint8]) -> NDArray[np.int64]:
    """The labels (N, 6), as `Caption.labels`, of clips (N, T, 32, 32, 3): uint8, or floats in [0, 1].

    Where a frame has no object, all labels of its clip are -1.
    """
    scale = 1 if clips.dtype == np.uint8 else 255
    return np.array([_read(np.asarray(clip, np.float64) * scale) for clip in clips])


def _read(clip: Floats) -> tuple[int, ...]:
    ground = np.median(clip, axis=(0, 1, 2))
    distance = np.linalg.norm(clip - ground, axis=-1)
    body = np.median(clip[distance >= 0.7 * np.quantile(distance, 0.99)], axis=0)
    # How much of each pixel the object covers: its place on the line between the two colours.
    line = body - ground
    cover = np.clip((clip - ground) @ line / max(line @ line, 1.0), 0, 1)
    cover[cover < 0.25] = 0
    area = cover.sum((1, 2))
    if area.min() < SMALLEST:
        return (-1,) * 6
    centre = np.stack([(cover * axis).sum((1, 2)) / area for axis in (_xs, _ys)], 1)
    moved = np.polyfit(np.arange(len(clip)), centre, 1)[0] * (len(clip) - 1)
    size, shape = _size_and_shape(cover, centre)
    return (
        size,
        _closest(body, PALETTE.values()),
        shape,
        _closest(np.linalg.norm(moved), DISTANCES.values()),
        int(np.argmax([moved @ np.array(d) for d in DIRECTIONS.values()])),
        _closest(ground, GROUNDS.values()),
    )


def _size_and_shape(cover: Floats, centre: Floats) -> tuple[int, int]:
    """The pair whose drawing, put where the object is in each frame, covers the same pixels best."""
    errors = np.zeros((len(RADII), len(SHAPES)))
    for i, r in enumerate(RADII.values()):
        for j, distance in enumerate(SHAPES.values()):
            middle = _drawn(distance, r, SIDE / 2, SIDE / 2)
            # A triangle's centre of mass is not where its radius starts.
            dx, dy = ((middle * axis).sum() / middle.sum() - SIDE / 2 for axis in (_xs, _ys))
            drawn = np.stack([_drawn(distance, r, x - dx, y - dy) for x, y in centre])
            errors[i, j] = np.square(drawn - cover).sum()
    size, shape = np.unravel_index(errors.argmin(), errors.shape)
    return int(size), int(shape)


def _drawn(distance: object, r: float, x: float, y: float) -> Floats:
    u, v = ((_xs - x) / r).astype(np.float32), ((y - _ys) / r).astype(np.float32)
    return np.clip(0.5 - r * distance(u, v).astype(np.float64), 0, 1)


def _closest(value: object, values: object) -> int:
    return int(np.argmin([np.linalg.norm(np.asarray(value) - np.asarray(other)) for other in values]))
