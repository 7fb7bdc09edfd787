"""The digest of a pipeline's components: it tells other weights, a LoRA and another sampler apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dcache.identity.denoisers import config_digest

# Numbers of each tensor that are hashed.
_FIRST = 8


def model_digest(name: str, components: Mapping[str, Any]) -> str:
    """Hash configurations, shapes, dtypes and the first numbers of every tensor of some components.

    Args:
        name: class name of what has the components.
        components: modules and whatever else has a config, by name; their order does not count.

    Returns:
        Twelve hexadecimal digits.
    """
    digest = hashlib.sha256(name.encode())
    for key, component in sorted(components.items()):
        digest.update(f"{key} {type(component).__name__} {config_digest(component)}".encode())
        tensors = component.state_dict() if isinstance(component, nn.Module) else {}
        for path, tensor in tensors.items():
            digest.update(f"{path} {tuple(tensor.shape)} {tensor.dtype}".encode())
            # Of offloaded modules the weights may be elsewhere.
            if tensor.device.type != "meta":
                numbers = tensor.detach().flatten()[:_FIRST].to("cpu", torch.float32)
                digest.update(numbers.numpy().tobytes())
    return digest.hexdigest()[:12]
