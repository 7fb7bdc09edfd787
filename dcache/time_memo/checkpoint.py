"""The files that a denoiser was loaded from, to read weights again that were freed."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from dcache.errors import DcacheError

_NAMES = ("diffusion_pytorch_model", "model")


class Checkpoint:
    """Tensors of a folder's safetensors files, by name.

    Args:
        files: name of a tensor -> the file that has it.
    """

    def __init__(self, files: dict[str, Path]) -> None:
        self.files = files

    @classmethod
    def of(cls, module: nn.Module) -> Checkpoint:
        """The checkpoint that a module was loaded from.

        Raises:
            DcacheError: its folder is not known, or has no safetensors file.
        """
        config = getattr(module, "config", None)
        path = getattr(config, "_name_or_path", "") or ""
        folder = Path(str(path))
        if not path or not folder.is_dir():
            raise DcacheError(
                f"offload='drop' frees weights that it reads again from their files, and those of "
                f"{type(module).__name__} are not known (loaded from {str(path)!r}). Use offload='cpu', or "
                "load the model with from_pretrained."
            )
        files = _files_in(folder)
        if not files:
            raise DcacheError(f"offload='drop' needs safetensors files, and there are none in {folder}")
        return cls(files)

    def read(self, name: str) -> torch.Tensor:
        """A tensor, in the dtype of the file.

        Raises:
            DcacheError: it cannot be read any more.
        """
        path = self.files[name]
        try:
            with safe_open(path, framework="pt") as opened:
                return opened.get_tensor(name)
        except (OSError, KeyError) as error:
            raise DcacheError(
                f"the weights {name} were dropped, and {path} cannot be read any more: {error}"
            ) from error

    def differences(self, module: nn.Module, prefix: str) -> list[str]:
        """Names of a module's parameters and buffers that are others than in the files."""
        different = []
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            full = f"{prefix}.{name}"
            if full not in self.files or not _is_same(self.read(full), tensor):
                different.append(full)
        return different


def _is_same(stored: torch.Tensor, tensor: torch.Tensor) -> bool:
    return stored.shape == tensor.shape and torch.equal(stored.to(tensor.dtype), tensor.detach().cpu())


def _files_in(folder: Path) -> dict[str, Path]:
    """Name of a tensor -> its file, by the folder's index or by what its files list."""
    for stem in _NAMES:
        index = folder / f"{stem}.safetensors.index.json"
        if index.is_file():
            weights = json.loads(index.read_text())["weight_map"]
            return {name: folder / file for name, file in weights.items()}
    for stem in _NAMES:
        path = folder / f"{stem}.safetensors"
        if path.is_file():
            with safe_open(path, framework="pt") as opened:
                return dict.fromkeys(opened.keys(), path)
    return {}
