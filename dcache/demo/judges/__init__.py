"""Networks of the demo's metrics: `clip-shapes` instead of a CLIP, `frechet-shapes` instead of Inception.

Both are small and were trained only on the demo's drawn pictures. Their figures compare pictures of the demo
with each other; they are not the CLIP scores and FIDs of the literature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcache.demo.data import folder

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dcache.demo.judges.frechet_shapes import FrechetShapes
    from dcache.demo.judges.small_clip import SmallCLIP


def clip_shapes() -> Path:
    """The folder of `clip-shapes`; open_clip loads it by the name f"local-dir:{clip_shapes()}"."""
    return folder("judges") / "clip-shapes"


def frechet_shapes_weights() -> Path:
    """The file with the weights of `frechet-shapes`."""
    return folder("judges") / "frechet-shapes.safetensors"


def load_clip_shapes(
    device: str | torch.device = "cpu",
) -> tuple[SmallCLIP, Callable[[Any], Tensor], Callable[[Sequence[str]], Tensor]]:
    """Load a small CLIP of the demo's captions and pictures.

    Returns:
        The model in float32 and eval mode, with the methods `encode_image` and `encode_text` of an
        `open_clip.CLIP`; its preprocessing, from a PIL picture to a tensor (3, 64, 64); its tokenizer, from N
        texts to token ids (N, 16).
    """
    from safetensors.torch import load_file

    from dcache.demo.judges.small_clip import SmallCLIP, load_tokenizer, preprocess

    model = SmallCLIP()
    model.load_state_dict(load_file(clip_shapes() / "open_clip_model.safetensors"))
    tokenizer = load_tokenizer(clip_shapes() / "tokenizer.json")
    return model.eval().requires_grad_(False).to(device), preprocess, tokenizer


def load_frechet_shapes(device: str | torch.device = "cpu") -> FrechetShapes:
    """Load the feature network for a Frechet distance between the demo's pictures.

    Returns:
        A float32 module in eval mode, from uint8 pictures (N, 3, 64, 64) to features (N, num_features). That
        is what torchmetrics expects: `FrechetInceptionDistance(feature=load_frechet_shapes())`.
    """
    from safetensors.torch import load_file

    from dcache.demo.judges.frechet_shapes import FrechetShapes

    judge = FrechetShapes()
    judge.load_state_dict(load_file(frechet_shapes_weights()))
    return judge.eval().requires_grad_(False).to(device)
