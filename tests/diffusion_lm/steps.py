"""A step of two sequences of twelve positions, for the policies."""

from typing import Any

import torch

from dcache.diffusion_lm import Step


def columns(*rows: list[int]) -> torch.Tensor:
    """Bool `[B, 12]`, True at these columns of each row."""
    mask = torch.zeros(len(rows), 12, dtype=torch.bool)
    for row, places in enumerate(rows):
        mask[row, places] = True
    return mask


def step(**changes: Any) -> Step:
    """Prompt 0 to 3, blocks of four, of which the first runs; masks at 5, 8 to 11, and at 4, 6, 9."""
    masked = columns([5, 8, 9, 10, 11], [4, 6, 9])
    options: dict[str, Any] = {
        "index": 6,
        "in_block": 2,
        "ids": torch.zeros(2, 12, dtype=torch.long),
        "masked": masked,
        "last": columns([4], [5]),
        "region": columns(list(range(4, 12)), list(range(4, 12))),
        "start": 4,
        "end": 8,
        "previous": 0,
        "turns": torch.tensor([6, 6]),
    }
    return Step(**{**options, **changes})


def listed(mask: torch.Tensor) -> list[list[int]]:
    """The columns of each row."""
    return [row.nonzero().flatten().tolist() for row in mask]
