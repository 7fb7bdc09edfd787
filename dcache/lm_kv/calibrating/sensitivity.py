"""How much the predictions of a model move when one layer's cache is compressed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dcache.lm_kv.cache import KVCache
from dcache.lm_kv.layers.eviction import evict
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.scoring.scorers import KeyDistance

# The share of a layer's tokens that is left.
SHARE = 0.25


@torch.no_grad()
def layer_sensitivity(
    model: Any, text: torch.Tensor, probe: torch.Tensor, step: Callable[[], None] = lambda: None
) -> list[float]:
    """Compress each layer by itself, keydiff at a quarter, and compare the predictions after the text.

    Args:
        model: a causal language model of transformers.
        text: ids int64 `[1, T]`.
        probe: ids int64 `[1, P]` that follow it.
        step: called before every layer.

    Returns:
        For each layer with full attention KL(whole cache || one layer compressed) of the next token's
        distribution, the mean over the probe's tokens, in nats.
    """
    policy = Policy("sensitivity", scorer=KeyDistance(), budget=SHARE, sinks=0, window=0)
    cache = KVCache(model, policy)
    with cache.hold():
        cache.decoder(input_ids=text, past_key_values=cache)
    whole = _predicted(model, cache.fork(), probe)
    moved = []
    for layer in cache.compressed_layers:
        step()
        other = cache.fork()
        evict([other.layers[layer]])
        near = _predicted(model, other, probe)
        moved.append(float((whole.exp() * (whole - near)).sum(-1).mean()))
    return moved


def _predicted(model: Any, cache: KVCache, probe: torch.Tensor) -> torch.Tensor:
    """Log-probabilities float32 `[P, vocabulary]`."""
    with cache.hold():
        logits: torch.Tensor = model(probe, past_key_values=cache).logits[0]
    return logits.float().log_softmax(-1)
