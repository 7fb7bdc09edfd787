"""A folder of reference pictures, for metrics that compare sets of pictures."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dcache.errors import DcacheError
from dcache.eval.metrics.base import Batch, Pixels
from dcache.eval.metrics.features import Chunk
from dcache.util.text import first_sentence

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def pictures_in(folder: Path) -> list[Path]:
    """The picture files of a folder and of the folders below it, sorted.

    Raises:
        DcacheError: the folder has no picture files.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise DcacheError(
            f"--reference: no pictures in {folder}. Expected a folder of {', '.join(sorted(SUFFIXES))} files"
        )
    return paths


def reference_chunks(folder: Path, size: int) -> list[Chunk]:
    """Batches of at most `size` successive pictures of equal height and width, with empty prompts.

    Raises:
        DcacheError: there are no pictures, or one cannot be read.
    """
    groups: list[list[Path]] = []
    last = None
    for path in pictures_in(folder):
        with _open(path) as picture:
            shape = picture.size
        if shape != last or len(groups[-1]) == size:
            groups.append([])
        groups[-1].append(path)
        last = shape
    return [_chunk(group) for group in groups]


def _chunk(paths: list[Path]) -> Chunk:
    def load() -> Batch:
        return Batch(np.stack([_pixels(path) for path in paths]), None, [""] * len(paths))

    return Chunk(tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths), load)


def _pixels(path: Path) -> Pixels:
    try:
        with _open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise DcacheError(f"--reference: {path} is damaged: {first_sentence(error)}") from error


def _open(path: Path) -> Image.Image:
    from PIL import Image

    try:
        return Image.open(path)
    except OSError as error:
        reason = first_sentence(error)
        raise DcacheError(f"--reference: {path} cannot be read as a picture: {reason}") from error
