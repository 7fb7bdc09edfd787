"""The drawn pictures that the demo model was trained on: one textured object on a coloured background.

>>> import numpy as np
>>> caption = Caption("large", "striped", "red", "circle", "top left", "blue")
>>> caption.text
'a large striped red circle at the top left on a blue background'
>>> render([caption], np.random.default_rng(0)).shape
(1, 64, 64, 3)
"""

import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SIDE = 64

PALETTE = {
    "red": (218, 38, 40),
    "orange": (248, 138, 22),
    "yellow": (250, 226, 50),
    "green": (40, 162, 70),
    "cyan": (52, 204, 224),
    "blue": (42, 72, 212),
    "purple": (146, 54, 186),
    "white": (240, 240, 238),
}
CENTRES = {
    "top left": (17.5, 17.5),
    "top": (32.0, 17.5),
    "top right": (46.5, 17.5),
    "left": (17.5, 32.0),
    "center": (32.0, 32.0),
    "right": (46.5, 32.0),
    "bottom left": (17.5, 46.5),
    "bottom": (32.0, 46.5),
    "bottom right": (46.5, 46.5),
}
RADII = {"small": 10.0, "large": 15.6}
INK = 0.2


@dataclass(frozen=True)
class Caption:
    """Content of a picture. The fields are the keys of `ATTRIBUTES`, in the same order."""

    size: str
    texture: str
    colour: str
    shape: str
    place: str
    background: str

    def __post_init__(self) -> None:
        for name, value in zip(ATTRIBUTES, astuple(self), strict=True):
            if value not in ATTRIBUTES[name]:
                raise ValueError(f"{name} must be one of {ATTRIBUTES[name]}, not {value!r}")
        if self.colour == self.background:
            raise ValueError(f"colour and background must differ, both are {self.colour!r}")

    @property
    def text(self) -> str:
        """The prompt, 13 words or fewer."""
        what = f"a {self.size} {self.texture} {self.colour} {self.shape}"
        article = "an" if self.background[0] in "aeiou" else "a"
        return f"{what} at the {self.place} on {article} {self.background} background"

    @property
    def labels(self) -> tuple[int, ...]:
        """The index of each field in `ATTRIBUTES`."""
        return tuple(
            ATTRIBUTES[name].index(value) for name, value in zip(ATTRIBUTES, astuple(self), strict=True)
        )


def _circle(x: Floats, y: Floats) -> Floats:
    distance: Floats = np.hypot(x, y) - np.float32(0.95)
    return distance


def _square(x: Floats, y: Floats) -> Floats:
    distance: Floats = np.maximum(np.abs(x), np.abs(y)) - np.float32(0.82)
    return distance


def _triangle(x: Floats, y: Floats) -> Floats:
    y = y + np.float32(0.15)
    distance: Floats = np.maximum(0.866 * np.abs(x) + 0.5 * y, -y) - np.float32(0.6)
    return distance


def _star(x: Floats, y: Floats) -> Floats:
    """Five points: fold the angle into one half sector, then the distance to the line from tip to notch."""
    sector = np.float32(2 * np.pi / 5)
    angle = np.abs((np.arctan2(x, y) + sector / 2) % sector - sector / 2)
    radius = np.hypot(x, y)
    across, along = radius * np.sin(angle), radius * np.cos(angle)
    tip, notch = 1.12, 0.56
    edge_x, edge_y = notch * np.sin(sector / 2), notch * np.cos(sector / 2) - tip
    distance: Floats = (-edge_y * across + edge_x * (along - tip)) / np.float32(np.hypot(edge_x, edge_y))
    return distance


def _cross(x: Floats, y: Floats) -> Floats:
    x, y = np.abs(x), np.abs(y)
    arm = np.float32(0.36)
    distance: Floats = np.minimum(np.maximum(x - 1, y - arm), np.maximum(x - arm, y - 1))
    return distance


def _heart(x: Floats, y: Floats) -> Floats:
    x, y = np.abs(x) * np.float32(0.6), y * np.float32(0.6) + np.float32(0.56)
    lobe = np.hypot(x - 0.25, y - 0.75) - np.float32(np.sqrt(2) / 4)
    foot = 0.5 * np.maximum(x + y, 0)
    body = np.sqrt(np.minimum(x**2 + (y - 1) ** 2, (x - foot) ** 2 + (y - foot) ** 2)) * np.sign(x - y)
    distance: Floats = np.where(x + y > 1, lobe, body) / np.float32(0.6)
    return distance


def _plain(u: Floats, v: Floats) -> Floats:
    return np.zeros_like(u)


def _striped(u: Floats, v: Floats) -> Floats:
    ink: Floats = np.clip(0.5 + 6.0 * (np.abs((v / 6.0) % 1 - 0.5) - 0.25), 0, 1)
    return ink


def _dotted(u: Floats, v: Floats) -> Floats:
    from_dot = np.hypot((u / 6.4 + 0.5) % 1 - 0.5, (v / 6.4 + 0.5) % 1 - 0.5) * 6.4
    ink: Floats = np.clip(2.5 - from_dot, 0, 1)
    return ink


def _checkered(u: Floats, v: Floats) -> Floats:
    ink: Floats = np.clip(0.5 + 1.6 * np.sin(u * (np.pi / 4.8)) * np.sin(v * (np.pi / 4.8)), 0, 1)
    return ink


Pattern = Callable[[Floats, Floats], Floats]
SHAPES: dict[str, Pattern] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
}
TEXTURES: dict[str, Pattern] = {
    "plain": _plain,
    "striped": _striped,
    "dotted": _dotted,
    "checkered": _checkered,
}

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "size": tuple(RADII),
    "texture": tuple(TEXTURES),
    "colour": tuple(PALETTE),
    "shape": tuple(SHAPES),
    "place": tuple(CENTRES),
    "background": tuple(PALETTE),
}


def render(captions: Sequence[Caption], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one picture per caption, uint8 of shape (len(captions), 64, 64, 3), anti-aliased.

    Position, size, rotation, colours and the background's gradient vary a little from draw to draw.
    """
    n = len(captions)
    centre = np.array([CENTRES[c.place] for c in captions]) + rng.uniform(-1.5, 1.5, (n, 2))
    radius = np.array([RADII[c.size] for c in captions]) * rng.uniform(0.95, 1.05, n)
    turn = rng.uniform(-0.2, 0.2, n)
    ys, xs = np.mgrid[:SIDE, :SIDE].astype(np.float32) + np.float32(0.5)
    dx, dy = xs - _column(centre[:, 0]), ys - _column(centre[:, 1])
    u = dx * _column(np.cos(turn)) + dy * _column(np.sin(turn))
    v = dy * _column(np.cos(turn)) - dx * _column(np.sin(turn))
    r = _column(radius)
    inside = np.clip(0.5 - r * _by_kind(SHAPES, [c.shape for c in captions], u / r, -v / r), 0, 1)[..., None]
    ink = _by_kind(TEXTURES, [c.texture for c in captions], u, v)[..., None]

    direction, strength = rng.uniform(0, 2 * np.pi, n), rng.uniform(0, 0.12, n)
    slope = _column(np.cos(direction)) * (xs / SIDE - 0.5) + _column(np.sin(direction)) * (ys / SIDE - 0.5)
    light = 0.94 + _column(strength) * slope
    ground = _colours([c.background for c in captions], rng) * light[..., None]
    body = _colours([c.colour for c in captions], rng) * (1 - (1 - INK) * ink)
    picture = ground + inside * (body - ground)
    pixels: NDArray[np.uint8] = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return pixels


def _column(values: NDArray[np.float64]) -> Floats:
    return values.astype(np.float32)[:, None, None]


def _colours(names: Sequence[str], rng: np.random.Generator) -> Floats:
    base = np.array([PALETTE[name] for name in names], np.float32)
    return (base + rng.uniform(-7, 7, base.shape).astype(np.float32))[:, None, None, :]


def _by_kind(kinds: dict[str, Pattern], names: Sequence[str], u: Floats, v: Floats) -> Floats:
    """Apply to each picture's coordinates the pattern with its name."""
    out = np.empty_like(u)
    for name in set(names):
        rows = [i for i, other in enumerate(names) if other == name]
        out[rows] = kinds[name](u[rows], v[rows])
    return out


def held_out(caption: Caption) -> bool:
    """Whether the caption is held out of training: one in ten, by a hash of its text."""
    return zlib.crc32(caption.text.encode()) % 10 == 0


def all_captions() -> list[Caption]:
    """All possible captions, in a fixed order."""
    products = itertools.product(*ATTRIBUTES.values())
    return [Caption(*values) for values in products if values[2] != values[5]]


def neighbours(caption: Caption) -> list[Caption]:
    """The 29 captions that differ from this one in exactly one attribute."""
    return [
        replace(caption, **{name: value})
        for name, values in ATTRIBUTES.items()
        for value in values
        # Object and background must differ in colour.
        if value not in astuple(caption)
    ]


def sample_captions(count: int, rng: np.random.Generator, *, unseen: bool | None = None) -> list[Caption]:
    """Draw captions, repeats allowed: of all (None), only of the trained (False) or held-out ones (True)."""
    pool = [c for c in all_captions() if unseen is None or held_out(c) == unseen]
    return [pool[i] for i in rng.integers(len(pool), size=count)]


def trained_captions(count: int) -> list[Caption]:
    """Draw `count` captions that the model was trained on, to calibrate and search with."""
    return sample_captions(count, np.random.default_rng(7), unseen=False)


def demo_captions(count: int) -> list[Caption]:
    """Choose `count` held-out captions in which every attribute's values are about equally frequent."""
    pool = sample_captions(400, np.random.default_rng(0), unseen=True)
    used: Counter[tuple[str, str]] = Counter()
    chosen: list[Caption] = []
    for _ in range(count):
        best = min(pool, key=lambda c: sum(used[item] for item in zip(ATTRIBUTES, astuple(c), strict=True)))
        pool.remove(best)
        chosen.append(best)
        used.update(zip(ATTRIBUTES, astuple(best), strict=True))
    return chosen
