"""Clips and the picture demo's training tools (resumable runs, averaged weights) for these scripts."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcache.demo.video import clips

sys.path.append(str(Path(__file__).parents[1] / "demo_model"))
from common import (  # shared with the picture demo
    Average,
    Run,
    averaged,
    load,
    log,
    muon_and_adam,
    rate,
    replace_model,
    save,
    word_tokenizer,
)

__all__ = [
    "Average", "Run", "averaged", "drawn", "load", "log", "muon_and_adam", "rate", "replace_model", "save",
    "to_tensor", "word_tokenizer",
]  # fmt: skip


def to_tensor(frames: Any) -> Tensor:
    """Turn uint8 (N, T, H, W, 3) into floats (N, 3, T, H, W) in [-1, 1]."""
    return torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float().div(127.5).sub(1).contiguous()


def drawn(count: int, seed: int, *, unseen: bool | None = False) -> tuple[list[clips.Caption], Any]:
    """Draw `count` captions (by default none held out) and a clip of each, uint8 (count, 9, 32, 32, 3)."""
    rng = np.random.default_rng(seed)
    captions = clips.sample_captions(count, rng, unseen=unseen)
    parts = [clips.render(captions[i : i + 16], rng) for i in range(0, count, 16)]
    return captions, np.concatenate(parts)
