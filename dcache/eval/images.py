"""Pictures as PNG files and clips as animated PNG files, without loss."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcache.errors import DcacheError
from dcache.util.text import first_sentence

MILLISECONDS = 125


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """The bytes of a PNG file, of a picture (H, W, 3) or a clip (F, H, W, 3)."""
    from PIL import Image

    first, *rest = map(Image.fromarray, pixels if pixels.ndim > 3 else pixels[None])
    content = io.BytesIO()
    if rest:
        # PIL merges equal successive frames with the same blend mode; alternating modes prevent that. They
        # look the same for opaque frames.
        blend = [i % 2 for i in range(1 + len(rest))]
        first.save(content, "PNG", save_all=True, append_images=rest, duration=MILLISECONDS, blend=blend)
    else:
        first.save(content, "PNG")
    return content.getvalue()


def decode(path: Path) -> NDArray[np.uint8]:
    """Read a picture (H, W, 3), or a clip (F, H, W, 3) of two frames or more.

    Raises:
        DcacheError: the file is missing or damaged.
    """
    from PIL import Image, ImageSequence

    try:
        with Image.open(path) as image:
            frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    except (OSError, SyntaxError) as error:
        raise DcacheError(
            f"cannot read {path}: {first_sentence(error)}. Run the generate stage: it makes missing and "
            "damaged pictures again."
        ) from None
    return np.stack(frames) if len(frames) > 1 else frames[0]
