"""What `dcache demo` is asked for, checked when it is made."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

from dcache.demo.pipeline import GUIDANCE, STEPS
from dcache.demo.specs import DEFAULT
from dcache.errors import DcacheError

PACKAGES = {
    "transformers": "transformers",
    "matplotlib": "matplotlib",
    "PIL": "pillow",
    "torchmetrics": "torchmetrics",
}
# For a single step diffusers' PixArt pipeline takes a path that only distilled models have.
FEWEST_STEPS, MOST_STEPS = 2, 1000
MOST_PROMPTS = 100


@dataclass(frozen=True)
class Settings:
    """One demonstration.

    Attributes:
        out: folder for the files; created.
        steps: sampling steps.
        prompts: number of captions, one picture each, all in one batch.
        methods: specifications as in `dcache.demo.specs`.
        guidance: classifier-free guidance; 1 turns it off.
        seed: picture i starts from noise of seed + i.
        repeats: timed calls of each method.
    """

    out: Path = Path("demo-out")
    steps: int = STEPS
    prompts: int = 4
    methods: str = DEFAULT
    guidance: float = GUIDANCE
    seed: int = 0
    repeats: int = 3

    def __post_init__(self) -> None:
        """Refuse what cannot run, before anything is loaded."""
        _between("--steps", self.steps, FEWEST_STEPS, MOST_STEPS)
        _between("--prompts", self.prompts, 1, MOST_PROMPTS)
        _between("--repeats", self.repeats, 1, 1000)
        _between("--seed", self.seed, 0, 2**62)
        if not (math.isfinite(self.guidance) and self.guidance >= 1):
            raise DcacheError(
                f"--guidance must be a number of at least 1 (1 turns it off), got {self.guidance}"
            )
        if self.out.exists() and not self.out.is_dir():
            raise DcacheError(f"--out must name a folder, and {self.out} is a file")


def require_packages() -> None:
    """Say in one message which optional packages are missing.

    Raises:
        DcacheError: one is.
    """
    missing = [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise DcacheError(f'the demo needs {", ".join(missing)}: pip install "dcache[demo]"')


def _between(option: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise DcacheError(f"{option} must lie between {low} and {high}, got {value}")
