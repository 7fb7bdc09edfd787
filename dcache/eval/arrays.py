"""Arrays by name in a file: observations of policies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dcache.errors import DcacheError


def load_arrays(file: Path) -> dict[str, torch.Tensor]:
    """The arrays of a file .npz or .safetensors, by name.

    Raises:
        DcacheError: it is no such file, is missing or damaged.
    """
    try:
        if file.suffix == ".npz":
            with np.load(file) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
    except Exception as error:  # Damaged files raise half a dozen kinds of errors.
        raise DcacheError(f"cannot read the observations {str(file)!r} ({type(error).__name__})") from error
    raise DcacheError(f"observations are a file .npz or .safetensors, got {str(file)!r}")
