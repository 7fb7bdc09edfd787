"""What must be alike in two models for one's file to fit the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

ALIKE = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")


def facts_of(decoder: torch.nn.Module, layers: Sequence[int]) -> dict[str, Any]:
    """A model's class, sizes, and which layers have full attention, as plain values."""
    config: Any = decoder.config
    sizes = {name: getattr(config, name, None) for name in ALIKE}
    return {"class": type(decoder).__name__, **sizes, "full_attention": list(layers)}


def difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> tuple[str, str] | None:
    """The facts in which two models differ, of either in words; None where they are alike."""
    differ = [name for name in here if here[name] != there.get(name)]
    if not differ:
        return None
    first, second = (", ".join(f"{name} {facts.get(name)}" for name in differ) for facts in (there, here))
    return first, second
