"""A pipeline that paints in no time: pictures are noise of prompt, seed and method, exactly repeatable."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dcache.eval.entries import BenchEntry
from dcache.eval.manifest import Manifest
from dcache.eval.prompts import digest
from dcache.eval.settings import Settings
from dcache.eval.store import Store
from dcache.eval.subject import Subject

PROMPTS = ["a red fox", "a blue bird", "a red fox"]
SETTINGS = Settings(images_per_prompt=2, seed=7, steps=3, batch_size=4, dtype="float32", device="cpu")


class Pipe:
    """Paint is added to everything; a call is one entry of the log."""

    def __init__(self) -> None:
        self.paint, self.calls = 0, list[tuple[int, list[int]]]()
        self.before: Callable[[], None] = lambda: None

    def __call__(self, prompt: list[str], num_inference_steps: int = 3, guidance_scale: float = 2.0) -> Any:
        raise NotImplementedError("the painter paints itself")


@dataclass
class Painter(Subject):
    """Calls that last as long as it takes to draw 8 x 8 random pixels."""

    pipe: Any = field(default_factory=Pipe)
    name: str = "painter"
    shape: tuple[int, ...] = (8, 8, 3)

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.float32]:
        self.pipe.before()
        self.pipe.calls.append((self.pipe.paint, list(seeds)))
        return np.stack([self.picture(p, s, self.pipe.paint) for p, s in zip(prompts, seeds, strict=True)])

    def picture(self, prompt: str, seed: int, paint: int) -> NDArray[np.float32]:
        noise = np.random.default_rng([zlib.crc32(prompt.encode()), seed, paint])
        return noise.random(self.shape, np.float32)

    @property
    def denoisers(self) -> list[nn.Module]:
        return []


@dataclass(frozen=True)
class Paint(BenchEntry):
    """A method: another colour."""

    paint: int = 1

    @property
    def digest(self) -> str:
        return f"{self.paint:012x}"

    @contextmanager
    def enabled(self, pipe: Any) -> Iterator[None]:
        pipe.paint = self.paint
        try:
            yield
        finally:
            pipe.paint = 0


RED, BLUE = Paint("red", "red", paint=1), Paint("blue", "blue", paint=2)


def begun(
    folder: Path,
    contestants: Sequence[BenchEntry] = (RED,),
    settings: Settings = SETTINGS,
    prompts: Sequence[str] = PROMPTS,
) -> Store:
    """The folder of an evaluation without pictures, or what is there."""
    asked = {"pipeline": "painter", "prompts": digest(prompts), **settings.content()}
    about = {"name": "painter", "class": "Pipe", "kind": "image", "steps": 3, "guidance": 2.0}
    folder.mkdir(parents=True, exist_ok=True)
    manifest = Manifest.of(folder, asked, about, prompts)
    manifest.add(contestants)
    manifest.write(folder)
    return Store(folder, manifest)


def contents(folder: Path) -> dict[str, bytes]:
    """Every picture by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("[!.]*.png"))}
