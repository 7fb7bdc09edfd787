"""The drawn clips that the video model was trained on: one shape that moves over a plain background.

>>> import numpy as np
>>> caption = Caption("large", "red", "circle", "quickly", "up", "black")
>>> caption.text
'a large red circle moves quickly up on a black background'
>>> render([caption], np.random.default_rng(0)).shape
(1, 9, 32, 32, 3)
"""

import itertools
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from dcache.demo import pictures
from dcache.demo.pictures import Floats

SIDE = 32
FRAMES = 9
WINDOW = 20

PALETTE = {name: pictures.PALETTE[name] for name in ("red", "yellow", "green", "cyan", "blue", "purple")}
# Backgrounds have other colours than objects, so that a colour word's meaning does not depend on its
# position.
GROUNDS = {"black": (22, 22, 26), "grey": (128, 128, 132), "white": (238, 238, 236)}
SHAPES = {name: pictures.SHAPES[name] for name in ("circle", "square", "triangle")}
RADII = {"small": 4.5, "large": 7.0}
# Pixels from the first frame to the last.
DISTANCES = {"slowly": 4.0, "quickly": 10.0}
DIRECTIONS = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
}


@dataclass(frozen=True)
class Caption:
    """Content of a clip. The fields are the keys of `ATTRIBUTES`, in the same order."""

    size: str
    colour: str
    shape: str
    speed: str
    direction: str
    background: str

    def __post_init__(self) -> None:
        for name, value in zip(ATTRIBUTES, astuple(self), strict=True):
            if value not in ATTRIBUTES[name]:
                raise ValueError(f"{name} must be one of {ATTRIBUTES[name]}, not {value!r}")

    @property
    def text(self) -> str:
        """The prompt, 11 words."""
        what = f"a {self.size} {self.colour} {self.shape}"
        return f"{what} moves {self.speed} {self.direction} on a {self.background} background"

    @property
    def labels(self) -> tuple[int, ...]:
        """The index of each field in `ATTRIBUTES`."""
        return tuple(
            ATTRIBUTES[name].index(value) for name, value in zip(ATTRIBUTES, astuple(self), strict=True)
        )


ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "size": tuple(RADII),
    "colour": tuple(PALETTE),
    "shape": tuple(SHAPES),
    "speed": tuple(DISTANCES),
    "direction": tuple(DIRECTIONS),
    "background": tuple(GROUNDS),
}


def render(captions: Sequence[Caption], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one clip per caption, uint8 of shape (len(captions), 9, 32, 32, 3), anti-aliased.

    The path lies anywhere that keeps the shape in the frame; length of the path, size, rotation and colours
    vary a little from draw to draw.
    """
    n = len(captions)
    radius = np.array([RADII[c.size] for c in captions]) * rng.uniform(0.95, 1.05, n)
    turn = rng.uniform(-0.12, 0.12, n)
    length = np.array([DISTANCES[c.speed] for c in captions]) * rng.uniform(0.95, 1.05, n)
    whole = np.array([DIRECTIONS[c.direction] for c in captions]) * length[:, None]
    low = (1.12 * radius + 1)[:, None] - np.minimum(whole, 0)
    high = SIDE - (1.12 * radius + 1)[:, None] - np.maximum(whole, 0)
    start = rng.uniform(low, high)
    centre = start[:, None] + whole[:, None] * np.linspace(0, 1, FRAMES)[:, None]

    # Only a window around the shape is computed; it is large enough for any shape.
    corner = np.clip(np.floor(centre).astype(int) - WINDOW // 2, 0, SIDE - WINDOW)
    offset = np.arange(WINDOW)
    columns, rows = (corner[:, :, k, None] + offset for k in (0, 1))
    dx = ((columns + 0.5) - centre[:, :, 0, None]).astype(np.float32)[:, :, None, :]
    dy = ((rows + 0.5) - centre[:, :, 1, None]).astype(np.float32)[:, :, :, None]
    cos, sin, r = (v.astype(np.float32)[:, None, None, None] for v in (np.cos(turn), np.sin(turn), radius))
    u, v = (dx * cos + dy * sin) / r, (dx * sin - dy * cos) / r
    inside = np.empty_like(u)
    for name, distance in SHAPES.items():
        members = [i for i, caption in enumerate(captions) if caption.shape == name]
        inside[members] = np.clip(0.5 - r[members] * distance(u[members], v[members]), 0, 1)

    ground = _colours([GROUNDS[c.background] for c in captions], rng)
    body = _colours([PALETTE[c.colour] for c in captions], rng)
    pixels = np.empty((n, FRAMES, SIDE, SIDE, 3), np.uint8)
    pixels[:] = np.clip(np.rint(ground), 0, 255)
    painted = np.clip(np.rint(ground + inside[..., None] * (body - ground)), 0, 255).astype(np.uint8)
    clip, frame = np.ogrid[:n, :FRAMES]
    pixels[clip[..., None, None], frame[..., None, None], rows[..., None], columns[:, :, None]] = painted
    return pixels


def _colours(named: Sequence[tuple[int, ...]], rng: np.random.Generator) -> Floats:
    base = np.array(named, np.float32)
    return (base + rng.uniform(-7, 7, base.shape).astype(np.float32))[:, None, None, None, :]


def held_out(caption: Caption) -> bool:
    """Whether the caption is held out of training: one in ten, by a hash of its text."""
    return zlib.crc32(caption.text.encode()) % 10 == 0


def all_captions() -> list[Caption]:
    """All possible captions, in a fixed order."""
    return [Caption(*values) for values in itertools.product(*ATTRIBUTES.values())]


def sample_captions(count: int, rng: np.random.Generator, *, unseen: bool | None = None) -> list[Caption]:
    """Draw captions, repeats allowed: of all (None), only of the trained (False) or held-out ones (True)."""
    pool = [c for c in all_captions() if unseen is None or held_out(c) == unseen]
    return [pool[i] for i in rng.integers(len(pool), size=count)]


def trained_captions(count: int) -> list[Caption]:
    """Draw `count` captions that the model was trained on, to calibrate and search with."""
    return sample_captions(count, np.random.default_rng(7), unseen=False)


def demo_captions(count: int) -> list[Caption]:
    """Choose `count` held-out captions in which every attribute's values are about equally frequent."""
    pool = [caption for caption in all_captions() if held_out(caption)]
    np.random.default_rng(0).shuffle(pool)
    used: Counter[tuple[str, str]] = Counter()
    chosen: list[Caption] = []
    for _ in range(count):
        best = min(pool, key=lambda c: sum(used[item] for item in zip(ATTRIBUTES, astuple(c), strict=True)))
        pool.remove(best)
        chosen.append(best)
        used.update(zip(ATTRIBUTES, astuple(best), strict=True))
    return chosen
