"""One call of a decoder whose layers note their keys and values."""

from __future__ import annotations

import torch

from dcache.lm_kv.model import adapter
from dcache.lm_kv.model.attention import Fresh, attend_some
from dcache.lm_kv.model.families import layers_for
from dcache.lm_kv.model.forwards import take_input
from dcache.lm_kv.storage.parts import DensePart

# Tokens of a text by which models are tried.
TOKENS = 8


class _NotedLayer(adapter.TaggedLayer):
    """A layer that notes its keys, values and number of query heads, and what its attention is given."""

    noted: tuple[torch.Tensor, torch.Tensor]
    query_heads: int
    given: torch.Tensor | None

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def attend(self, call: adapter.AttentionCall) -> torch.Tensor:
        self.noted, self.query_heads = (call.key, call.value), call.query.shape[1]
        self.given = take_input(self.index)
        return attend_some(call.query, [DensePart(call.key, call.value)], call.logits, Fresh())


class NotedCache(adapter.LiveCache):
    """A cache for one call.

    Args:
        decoder: of the model.
        reads_inputs: whether layers note what attention is given, where hooks see it.
    """

    def __init__(self, decoder: torch.nn.Module, reads_inputs: bool = False) -> None:
        self.reads_inputs = reads_inputs
        layers, self.compressed_layers = layers_for(decoder, _NotedLayer)
        super().__init__(layers=layers)


def few_ids(decoder: torch.nn.Module) -> torch.Tensor:
    """Ids int64 `[1, TOKENS]` that a decoder has, of a short text to try it on."""
    vocabulary: int = decoder.config.vocab_size  # type: ignore[union-attr, assignment]
    return torch.arange(1, TOKENS + 1, device=next(decoder.parameters()).device)[None] % vocabulary


@torch.no_grad()
def noted(decoder: torch.nn.Module, ids: torch.Tensor, reads_inputs: bool = False) -> NotedCache:
    """What the layers of a decoder note of ids `[B, T]` without pads; see `NotedCache`."""
    attachment, cache = adapter.attach(decoder), NotedCache(decoder, reads_inputs)
    decoder(input_ids=ids, past_key_values=cache, use_cache=True)
    # The hooks live as long as the attachment.
    del attachment
    return cache
