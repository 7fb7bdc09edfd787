"""Networks of the demo's metrics: `clip-shapes` instead of a CLIP, `frechet-shapes` instead of Inception.

Both are small and were trained only on the demo's drawn pictures. Their figures compare pictures of the demo
with each other; they are not the CLIP scores and FIDs of the literature.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcache.demo.data import folder

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from dcache.demo.judges.frechet_shapes import FrechetShapes


def clip_shapes() -> Path:
    """The folder of `clip-shapes`; open_clip loads it by the name f"local-dir:{clip_shapes()}"."""
    return folder("judges") / "clip-shapes"


def frechet_shapes_weights() -> Path:
    """The file with the weights of `frechet-shapes`."""
    return folder("judges") / "frechet-shapes.safetensors"


def load_clip_shapes(
    device: str | torch.device = "cpu",
) -> tuple[nn.Module, Callable[[Any], Tensor], Callable[[list[str]], Tensor]]:
    """Load a small CLIP of the demo's captions and pictures, with open_clip.

    Returns:
        The `open_clip.CLIP` in float32 and eval mode; its preprocessing, from a PIL picture to a tensor
        (3, 64, 64); its tokenizer, from N texts to token ids (N, 16).
    """
    import open_clip

    name = f"local-dir:{clip_shapes()}"
    model, preprocess = open_clip.create_model_from_pretrained(name, device=device)
    return model.eval(), preprocess, open_clip.get_tokenizer(name)


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
