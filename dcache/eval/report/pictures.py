"""Pictures embedded in a report, within a limit of bytes: the first prompts, lossless if they fit."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dcache.eval.manifest import Item
from dcache.eval.store import Store

MOST_PICTURES, MOST_ROWS = 48, 12
# Limit for the bytes of all embedded pictures; most frames of a clip.
BUDGET, MOST_FRAMES = 7_000_000, 16
# Longest sides to try, largest first; None keeps the picture as it is.
SIDES = (None, 768, 512, 384, 256, 192, 128, 64)
QUALITY = 88


@dataclass(frozen=True)
class Gallery:
    """The pictures of a page, row by row, the uncached one first in each.

    Attributes:
        items: item of each row.
        sources: for each row the `data:` addresses of its pictures; a clip is a vertical strip of its frames.
        frames: number of frames in a strip.
        width, height: size of the original pictures.
        reduced: how the embedded pictures differ from the original ones; "" if they do not.
    """

    items: list[Item]
    sources: list[list[str]]
    frames: int
    width: int
    height: int
    reduced: str


def gallery(store: Store) -> Gallery:
    """Embed the first pictures of every method.

    Raises:
        DcacheError: a picture is missing or damaged.
    """
    columns = len(store.methods)
    rows = min(MOST_ROWS, max(1, MOST_PICTURES // columns), len(store.items))
    # First one picture of each prompt, then the others.
    each = store.settings["images_per_prompt"]
    items = sorted(
        sorted(store.items, key=lambda item: item.index % each)[:rows], key=lambda item: item.index
    )
    for side in SIDES:
        sources = list(_within(BUDGET, _sources(store, items, side)))
        if len(sources) == rows * columns or side == SIDES[-1]:
            break
    clip = _clip(store, items[0], 0)
    frames, height, width, _ = clip.shape
    whole = len(_frames(clip))
    reduced = [f"WebP of at most {side} pixels a side"] if side else []
    reduced += [f"{whole} of {frames} frames"] if whole < frames else []
    grid = [sources[i : i + columns] for i in range(0, len(sources), columns)]
    return Gallery(items, grid, whole, width, height, ", ".join(reduced))


def _sources(store: Store, items: list[Item], side: int | None) -> Iterator[str]:
    for item in items:
        for column in range(len(store.methods)):
            yield _address(_frames(_clip(store, item, column)), side)


def _clip(store: Store, item: Item, column: int) -> NDArray[np.uint8]:
    """The pixels as a clip (F, H, W, 3); a picture is a clip of one frame."""
    pixels = store.picture(store.methods[column], item)
    return pixels if pixels.ndim > 3 else pixels[None]


def _frames(clip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """All frames, or `MOST_FRAMES` evenly spaced ones."""
    count = min(len(clip), MOST_FRAMES)
    return clip[np.linspace(0, len(clip) - 1, count).round().astype(int)]


def _address(clip: NDArray[np.uint8], side: int | None) -> str:
    """The frames of a clip, one below the other, as a `data:` address."""
    from PIL import Image

    kind, content = "png" if side is None else "webp", io.BytesIO()
    if side is not None:
        scale = min(1.0, side / max(clip.shape[1:3]))
        size = (max(1, round(clip.shape[2] * scale)), max(1, round(clip.shape[1] * scale)))
        clip = np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.LANCZOS)) for f in clip])
    strip = clip.reshape(-1, *clip.shape[2:])
    Image.fromarray(strip).save(content, kind, optimize=True, quality=QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def _within(budget: int, addresses: Iterator[str]) -> Iterator[str]:
    """The first addresses whose total length is within the budget."""
    for address in addresses:
        budget -= len(address)
        if budget < 0:
            return
        yield address
