"""How far the heads of a model look back, measured on random text that is repeated."""

from __future__ import annotations

from typing import Any

import torch

from dcache.lm_kv.cache import KVCache
from dcache.lm_kv.layers.layer import LayerCache
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.scoring.heads import Pattern
from dcache.lm_kv.scoring.observers import QueryWindow
from dcache.lm_kv.scoring.scorers import Recency, attention_of
from dcache.lm_kv.scoring.window_scorers import query_blocks
from dcache.util.checks import check_whole


@torch.no_grad()
def head_pattern(model: Any, tokens: int = 256, seed: int = 0) -> Pattern:
    """How much each KV head attends to the earlier copy of the current token, or to the token behind it.

    RazorAttention's echo and induction heads: random tokens are read twice, and the mean attention of the
    second reading to either place is taken, in the head of the group where it is most.

    Args:
        model: a causal language model of transformers.
        tokens: how many random tokens are repeated; at least 2.
        seed: of the tokens.

    Returns:
        For each layer a number from 0 to 1 for each KV head, () for layers without full attention.

    Raises:
        DcacheError: the model is not supported.
    """
    check_whole("tokens", tokens, 2)
    policy = Policy(
        "head_pattern", scorer=Recency(), observer=QueryWindow(tokens), budget=1.0, sinks=0, window=0
    )
    cache = KVCache(model, policy)
    embeddings: Any = cache.decoder
    embeddings = embeddings.get_input_embeddings()
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(len(embeddings.weight), (1, tokens), generator=generator, device="cpu")
    with cache.hold():
        cache.decoder(input_ids=ids.repeat(1, 2).to(embeddings.weight.device), past_key_values=cache)
    return tuple(_reach(layer, tokens) if isinstance(layer, LayerCache) else () for layer in cache.layers)


def _reach(layer: LayerCache, tokens: int) -> tuple[float, ...]:
    """The larger of echo and induction scores of a layer's KV heads."""
    if layer.store is None:
        return ()
    stored = layer.store.stored()
    received = torch.zeros((), dtype=torch.float32, device="cpu")
    for block in query_blocks(layer.state):
        weights, _ = attention_of(block, stored, layer.logits)
        earlier = (block["position"] - tokens)[:, None, None, :, None].expand(*weights.shape[:4], 1)
        pair = [weights.gather(-1, earlier + ahead).sum((0, 3, 4)) for ahead in (0, 1)]
        received = received.to(weights.device) + torch.stack(pair)
    scores: list[float] = (received / tokens).amax((0, 2)).tolist()
    return tuple(scores)
