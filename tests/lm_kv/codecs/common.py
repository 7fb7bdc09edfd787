"""Encoding keys of runs without gaps."""

from typing import Any

import torch


def encode_keys(codec: Any, keys: torch.Tensor, lengths: torch.Tensor) -> Any:
    """Keys of runs of these lengths, each with all tokens from position 0 on."""
    positions = [torch.arange(n) for n in lengths.flatten().tolist()]
    return codec.encode_keys(keys, lengths, torch.cat(positions))
