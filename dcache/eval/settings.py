"""Settings of an evaluation: its stages and the pipeline's call options; checked on construction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dcache.eval.limits import check_limit

STAGES = ("generate", "score", "report")
CHECKED = ("images_per_prompt", "seed", "steps", "guidance", "height", "width", "frames", "batch_size")


@dataclass(frozen=True)
class Settings:
    """Settings that decide the pictures, beside pipeline, prompts and methods. None: the pipeline's default.

    Attributes:
        images_per_prompt: pictures or clips of each prompt.
        seed: seed of the first picture; picture i has seed + i.
        steps: sampling steps.
        guidance: guidance scale.
        height: height of a picture, in pixels.
        width: width of a picture, in pixels.
        frames: frames of a clip.
        batch_size: pictures in a call, for any number of processes, because it affects their last bits.
        dtype: dtype of the weights; `auto` is bfloat16 on a GPU, float32 elsewhere.
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
        """Check the ranges.

        Raises:
            DcacheError: a number is out of range.
        """
        for name in CHECKED:
            check_limit(name, getattr(self, name))

    def call(self) -> dict[str, Any]:
        """The arguments for `dcache.eval.subject.load`."""
        names = ("steps", "guidance", "height", "width", "frames", "dtype", "device", "options")
        return {name: getattr(self, name) for name in names}

    def content(self) -> dict[str, Any]:
        """All fields as JSON values: the device by its type, other objects by their `repr`."""
        plain = (str, int, float, bool, type(None))
        options = {k: v if isinstance(v, plain) else repr(v) for k, v in sorted(self.options.items())}
        return vars(self) | {"device": self.device.partition(":")[0], "options": options}

    def given(self) -> dict[str, Any]:
        """The fields of `content` that differ from the defaults."""
        defaults = Settings().content()
        return {name: value for name, value in self.content().items() if value != defaults[name]}


def differences(here: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """A line for each of the `wanted` settings that differs.

    >>> differences({"seed": 1, "steps": None}, {"seed": 1, "steps": 20})
    ["steps: expected the pipeline's default, got 20"]
    """
    return [
        f"{name}: expected {_shown(here.get(name))}, got {_shown(value)}"
        for name, value in wanted.items()
        if here.get(name) != value
    ]


def _shown(value: Any) -> str:
    return "the pipeline's default" if value is None else str(value)
