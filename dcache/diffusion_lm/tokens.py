"""How many tokens a model has."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from dcache.util.checks import is_whole


def tokens_of(model: nn.Module) -> float:
    """How many tokens the model has; infinity where it does not say."""
    embed: Any = getattr(model, "get_input_embeddings", None)
    embedding, config = (None if embed is None else embed()), getattr(model, "config", None)
    sizes = getattr(embedding, "num_embeddings", None), getattr(config, "vocab_size", None)
    return next((size for size in sizes if is_whole(size)), math.inf)
