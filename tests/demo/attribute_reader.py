"""A small classifier that reads a caption's attributes from a picture; trained on drawn pictures only."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from dcache.demo.pictures import ATTRIBUTES

WEIGHTS = Path(__file__).with_name("attribute_reader.safetensors")


class AttributeReader(nn.Module):
    """A convnet with one head per attribute of `ATTRIBUTES`."""

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

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Logits per attribute, (N, number of values), from pictures (N, 3, 64, 64) in [0, 1]."""
        out: tuple[Tensor, ...] = self.heads(self.trunk(pictures - 0.5)).split(self.sizes, dim=1)
        return out

    @torch.no_grad()
    def read(self, pictures: NDArray[np.floating] | NDArray[np.uint8]) -> NDArray[np.int64]:
        """The labels (N, 6), as `Caption.labels`, of pictures (N, 64, 64, 3): uint8, or floats in [0, 1]."""
        scale = 255 if pictures.dtype == np.uint8 else 1
        x = torch.from_numpy(np.asarray(pictures, np.float32) / scale).permute(0, 3, 1, 2)
        labels: NDArray[np.int64] = torch.stack([logits.argmax(1) for logits in self(x)], 1).numpy()
        return labels


def load_reader() -> AttributeReader:
    """The trained reader, ready to read."""
    reader = AttributeReader()
    reader.load_state_dict(load_file(WEIGHTS))
    return reader.eval()
