"""What was measured of a model once, in a safetensors file that policies read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.model.facts import difference, facts_of
from dcache.lm_kv.scoring.heads import Pattern
from dcache.util.files import as_path, read_tensors, write

FORMAT = "dcache.lm_kv.calibration 1"


@dataclass(frozen=True, eq=False)
class Calibration:
    """The content of a calibration file.

    Attributes:
        path: the file.
        about: the model's name and facts, and how it was measured.
        tensors: by name, each for the layer behind its dot: `pattern.0` float32 `[h]`, how far heads look
            back; `basis.0` float16 `[h, d, d]`, directions of keys before rotation, the strongest first, one
            a row; `variance.0` float32 `[h, d]`, the mean square along them; `channels.0` int16 `[h, d]`,
            those that weigh most in dot products first; `sensitivity` float32, one for each layer with full
            attention.
    """

    path: Path
    about: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]

    @property
    def pattern(self) -> Pattern:
        """For each layer a number for each KV head, () for layers without full attention."""
        count = self.about["facts"]["num_hidden_layers"]
        layers = [self.tensors.get(f"pattern.{layer}") for layer in range(count)]
        return tuple(() if layer is None else tuple(layer.tolist()) for layer in layers)

    @property
    def sensitivity(self) -> tuple[tuple[int, float], ...]:
        """Index of each layer with full attention, and how far predictions move when it is compressed."""
        layers = self.about["facts"]["full_attention"]
        return tuple(zip(layers, self.tensors["sensitivity"].tolist(), strict=True))

    def tensor(self, name: str, layer: int) -> torch.Tensor:
        """A layer's tensor.

        Raises:
            DcacheError: it was not measured.
        """
        tensor = self.tensors.get(f"{name}.{layer}")
        if tensor is None:
            reason = self.about.get("left_out") or f"layer {layer} was not measured"
            raise DcacheError(f"{self.path} has no {name} for layer {layer}: {reason}")
        return tensor

    def check(self, decoder: torch.nn.Module, layers: Sequence[int]) -> None:
        """Compare the file's model with this one.

        Args:
            decoder: of the model.
            layers: indices of its layers with full attention.

        Raises:
            DcacheError: they differ in shape.
        """
        differ = difference(self.about["facts"], facts_of(decoder, layers))
        if differ is not None:
            raise DcacheError(
                f"{self.path} is a calibration of {self.about['model']!r} with {differ[0]}; this model has "
                f"{differ[1]}. Calibrate this one: dcache lm calibrate MODEL --out FILE"
            )


def save(path: Path, about: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Path:
    """Write a calibration, whole or not at all."""
    from safetensors.torch import save_file

    metadata = {"format": FORMAT, "about": json.dumps(about)}
    copies = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return write(path, lambda temporary: save_file(copies, temporary, metadata=metadata))


def load(path: str | os.PathLike[str]) -> Calibration:
    """Read a calibration; a file that did not change since the last time is not read again.

    Raises:
        DcacheError: the file cannot be read, or is none of these.
    """
    place = as_path(path, "calibration")
    try:
        state = place.stat()
    except OSError as error:
        raise DcacheError(f"cannot read the calibration {place}: {error.strerror}") from None
    return _loaded(place, state.st_mtime_ns, state.st_size)


def path_of(calibration: str | os.PathLike[str] | None) -> str | None:
    """The path of a calibration that a policy's cache will read, None without one; as `load`, it raises."""
    return None if calibration is None else str(load(calibration).path)


@lru_cache(maxsize=4)
def _loaded(path: Path, changed: int, size: int) -> Calibration:
    tensors, metadata = read_tensors(path, "calibration")
    if metadata.get("format") != FORMAT:
        raise DcacheError(
            f"{path} is not a calibration: expected the format {FORMAT!r}, which dcache lm calibrate writes"
        )
    return Calibration(path, json.loads(metadata["about"]), tensors)
