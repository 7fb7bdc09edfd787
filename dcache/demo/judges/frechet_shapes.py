"""`frechet-shapes`: a feature network for a Frechet distance between the demo's pictures.

It replaces FID's Inception there; its distances are not FIDs. It was trained on drawn pictures to classify
the attributes of the caption, and can be used for that too (`read`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dcache.demo.pictures import ATTRIBUTES, SIDE
from dcache.errors import DcacheError

# Weight of the first kind of features: both kinds contribute about equally to distances of drawn pictures.
DRAWN = 2.0


class FrechetShapes(nn.Module):
    """A convnet with one head per attribute of `ATTRIBUTES`.

    Its features are of two kinds: the mean activations of the second convolution, which react to blur, noise
    and contrast; and the probabilities of the attributes' values, which react to a wrong colour or shape.

    Attributes:
        num_features: number of features of a picture, under the name that torchmetrics reads.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, kernel, stride in (
            (3, 32, 5, 2),
            (32, 48, 3, 1),
            (48, 64, 3, 2),
            (64, 96, 3, 2),
        ):
            conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.Conv2d(96, 48, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(48 * 16, 96), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.sizes = [len(values) for values in ATTRIBUTES.values()]
        self.heads = nn.Linear(96, sum(self.sizes))
        self.num_features = 48 + sum(self.sizes)

    def forward(self, pictures: Tensor) -> Tensor:
        """The features, float32 (N, num_features), of uint8 pictures (N, 3, 64, 64).

        Raises:
            DcacheError: pictures of another dtype or shape.
        """
        if pictures.dtype != torch.uint8 or pictures.shape[1:] != (3, SIDE, SIDE):
            raise DcacheError(
                f"frechet-shapes expects torch.uint8 pictures (N, 3, {SIDE}, {SIDE}), got {pictures.dtype} "
                f"{tuple(pictures.shape)}. It is for the demo's own pictures: use FID's Inception for others."
            )
        early = self.trunk[:6](pictures.to(self.heads.weight.dtype) / 255 - 0.5)
        logits = self.heads(self.trunk[6:](early)).split(self.sizes, dim=1)
        shown = [values.softmax(1) for values in logits]
        return torch.cat([DRAWN * early.mean((2, 3)), *shown], 1).float()

    def logits(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Logits per attribute, (N, number of values), from pictures (N, 3, 64, 64) in [0, 1]."""
        out: tuple[Tensor, ...] = self.heads(self.trunk(pictures - 0.5)).split(self.sizes, dim=1)
        return out

    @torch.no_grad()
    def read(self, pictures: NDArray[np.floating] | NDArray[np.uint8]) -> NDArray[np.int64]:
        """The labels (N, 6), as `Caption.labels`, of pictures (N, 64, 64, 3): uint8, or floats in [0, 1]."""
        scale = 255 if pictures.dtype == np.uint8 else 1
        x = torch.from_numpy(np.asarray(pictures, np.float32) / scale).permute(0, 3, 1, 2)
        labels: NDArray[np.int64] = torch.stack([logits.argmax(1) for logits in self.logits(x)], 1).numpy()
        return labels
