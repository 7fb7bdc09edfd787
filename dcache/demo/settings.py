"""Settings of `dcache demo`, checked on construction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from dcache.demo.data import folder
from dcache.demo.pipeline import FEWEST_STEPS, GUIDANCE, STEPS
from dcache.errors import DcacheError
from dcache.eval.packages import require

METHODS = (
    "default;"
    "interval:interval=3;"
    "interval:interval=3,sites=model;"
    "newton:interval=4;"
    "interval:interval=4;"
    "taylorseer:interval=4,order=1;"
    "taylorseer:interval=4,order=1,lite=true;"
    "fbcache:threshold=0.1;"
    "fbcache:threshold=0.3"
)
VIDEO_METHODS = (
    "default;"
    "interval:interval=3;"
    "newton:interval=4;"
    "taylorseer:interval=4,order=1,lite=true;"
    "fbcache:threshold=0.1"
)
PACKAGES = ("transformers", "matplotlib", "PIL", "torchmetrics")
# diffusers loads the video model with it alone.
VIDEO_PACKAGES = (*PACKAGES, "accelerate")
MOST_STEPS = 1000
MOST_PROMPTS = 100


@dataclass(frozen=True)
class Settings:
    """One demonstration.

    Attributes:
        out: folder for the files; created.
        steps: sampling steps.
        prompts: number of captions, one picture each, all in one batch.
        methods: specifications as in `dcache.eval.specs`.
        guidance: classifier-free guidance; 1 turns it off.
        seed: picture i starts from noise of seed + i.
        repeats: timed calls of each method.
        video: make clips with the video model instead of pictures.
    """

    out: Path = Path("demo-out")
    steps: int = STEPS
    prompts: int = 8
    methods: str = METHODS
    guidance: float = GUIDANCE
    seed: int = 0
    repeats: int = 3
    video: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        between("--steps", self.steps, FEWEST_STEPS, MOST_STEPS)
        between("--prompts", self.prompts, 1, MOST_PROMPTS)
        between("--repeats", self.repeats, 1, 1000)
        between("--seed", self.seed, 0, 2**62)
        if not (math.isfinite(self.guidance) and self.guidance >= 1):
            raise DcacheError(
                f"--guidance must be a number of at least 1 (1 turns it off), got {self.guidance}"
            )
        if self.out.exists() and not self.out.is_dir():
            raise DcacheError(f"--out must name a folder, and {self.out} is a file")


def default_settings(video: bool) -> Settings:
    """The default settings of `dcache demo`, without or with `--video`."""
    if video:
        return Settings(out=Path("demo-out/video"), methods=VIDEO_METHODS, repeats=2, video=True)
    return Settings()


def require_packages(video: bool = False) -> None:
    """Check that the optional packages are installed.

    Args:
        video: check those of clips, which are more.

    Raises:
        DcacheError: the shipped models or packages are missing; the message names all packages.
    """
    # The models come first: the line that installs them installs the packages too.
    folder("video" if video else "image")
    require("demo", "the demo", *(VIDEO_PACKAGES if video else PACKAGES))


def between(option: str, value: int, low: int, high: int) -> None:
    """Raise `DcacheError` if a number is out of range."""
    if not low <= value <= high:
        raise DcacheError(f"{option} must lie between {low} and {high}, got {value}")
