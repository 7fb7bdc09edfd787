"""What an evaluation is asked for: its stages, and how the pipeline is called; checked when it is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dcache.errors import DcacheError
from dcache.util.checks import is_whole

STAGES = ("generate", "score", "report")
MOST = 10**6
RANGES = {
    "images_per_prompt": (1, MOST),
    "seed": (0, 2**62),
    "steps": (1, MOST),
    "height": (1, MOST),
    "width": (1, MOST),
    "frames": (1, MOST),
    "batch_size": (1, MOST),
}


@dataclass(frozen=True)
class Settings:
    """What decides the pictures, beside pipeline, prompts and methods. None is the pipeline's own choice.

    Attributes:
        images_per_prompt: pictures or clips of each prompt.
        seed: of the first picture; picture i has seed + i.
        steps: sampling steps.
        guidance: guidance scale.
        height: of a picture, in pixels.
        width: of a picture, in pixels.
        frames: of a clip.
        batch_size: pictures in a call, whatever the number of processes: it decides their last bits.
        dtype: of the weights; `auto` is bfloat16 on a GPU, float32 elsewhere.
        device: `auto` is the first GPU, or one for each of several processes, or the CPU.
        options: further arguments of the pipeline's call.
    """

    images_per_prompt: int = 1
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    batch_size: int = 8
    dtype: str = "auto"
    device: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be, before anything is loaded.

        Raises:
            DcacheError: a number is out of range.
        """
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not (is_whole(value) and low <= value <= high):
                raise DcacheError(f"{name} must be a whole number between {low} and {high}, got {value!r}")
        if self.guidance is not None and not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise DcacheError(f"guidance must be a number of at least 0, got {self.guidance}")

    def call(self) -> dict[str, Any]:
        """The part that `dcache.eval.subject.load` takes."""
        names = ("steps", "guidance", "height", "width", "frames", "dtype", "device", "options")
        return {name: getattr(self, name) for name in names}

    def content(self) -> dict[str, Any]:
        """As plain JSON values: a device by its type, an option that JSON does not have by its text."""
        plain = (str, int, float, bool, type(None))
        options = {k: v if isinstance(v, plain) else repr(v) for k, v in sorted(self.options.items())}
        return vars(self) | {"device": self.device.partition(":")[0], "options": options}

    def given(self) -> dict[str, Any]:
        """The part of the content that is not the default."""
        usual = Settings().content()
        return {name: value for name, value in self.content().items() if value != usual[name]}


def differences(here: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Where settings differ: a line for each of `asked`.

    >>> differences({"seed": 1, "steps": None}, {"seed": 1, "steps": 20})
    ["steps: here the pipeline's own, asked for 20"]
    """
    return [
        f"{name}: here {_shown(here.get(name))}, asked for {_shown(value)}"
        for name, value in asked.items()
        if here.get(name) != value
    ]


def _shown(value: Any) -> str:
    return "the pipeline's own" if value is None else str(value)
