"""Single-stream and cross-attention image transformers."""

from tests.shapes import Shape

SINGLE: tuple[Shape, ...] = ()
