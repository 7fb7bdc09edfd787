"""What `methods.available()` tells of a preset, declared beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Preset = TypeVar("Preset", bound=Callable[..., object])

FAMILIES = ("any", "transformer", "unet", "sublayers", "cross-attention", "guidance")
_TOLD: dict[str, About] = {}


@dataclass(frozen=True)
class About:
    """What a preset is and where it makes sense.

    Attributes:
        summary: one line.
        paper: where it comes from.
        needs: what must be brought along, "" if nothing.
        sites: what it remembers, as in `dcache.sites`.
        families: what a denoiser must have: "any", "transformer" (a list of blocks), "unet",
            "sublayers" (block classes whose sublayers are declared), "cross-attention", "guidance" (a branch
            without the prompt).
    """

    summary: str
    paper: str
    needs: str
    sites: str
    families: tuple[str, ...]

    def __str__(self) -> str:
        return self.summary


def about(
    paper: str, sites: str, families: tuple[str, ...] = ("any",), needs: str = ""
) -> Callable[[Preset], Preset]:
    """Declare what a preset is; its summary is the first line of its docstring."""

    def declare(preset: Preset) -> Preset:
        summary = (preset.__doc__ or "").partition("\n")[0]
        _TOLD[preset.__name__] = About(summary, paper, needs, sites, families)
        return preset

    return declare


def told(name: str) -> About:
    """What was declared of the preset of this name."""
    return _TOLD[name]
