"""Video and audio-video transformers."""

from tests.shapes import Shape

VIDEO: tuple[Shape, ...] = ()
