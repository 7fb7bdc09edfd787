"""Image transformers with two streams, text and image."""

from tests.shapes import Shape

MMDIT: tuple[Shape, ...] = ()
