"""Some tokens of a text computed by a model, with keys and values of the others given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.model import adapter
from dcache.lm_kv.model.attention import Fresh, Logits, attend_some
from dcache.lm_kv.model.families import layers_for
from dcache.lm_kv.model.states import States
from dcache.lm_kv.storage.parts import DensePart


@dataclass(frozen=True)
class Watched:
    """What one layer does in a forward that computes n of T tokens.

    Attributes:
        layer: its index.
        query: `[1, H, n, d]`, turned.
        keys: `[1, h, T, d]`, of all tokens.
        logits: how the layer makes logits.
        visible: bool `[n, T]`.
    """

    layer: int
    query: torch.Tensor
    keys: torch.Tensor
    logits: Logits
    visible: torch.Tensor

    def weights(self) -> torch.Tensor:
        """Float32 or better `[1, h, G, n, T]`, G query heads of each KV head."""
        query = self.logits.scaled(self.query.unflatten(1, (self.keys.shape[1], -1)))
        logits = self.logits.capped(query @ self.keys[:, :, None].to(query.dtype).mT)
        logits = logits.masked_fill(~self.visible, float("-inf"))
        return self.logits.softmax(logits)


Watch: TypeAlias = Callable[[Watched], None]


def check_all_full(decoder: torch.nn.Module) -> None:
    """Refuse decoders of which a layer's state is not keys and values of every token.

    Raises:
        DcacheError: the decoder has layers with sliding windows, or linear, convolutional or latent ones.
    """
    layers, full = layers_for(decoder, lambda _: adapter.FullLayer())
    if len(full) < len(layers):
        others = sorted({type(layer).__name__ for layer in layers if type(layer) is not adapter.FullLayer})
        raise DcacheError(
            f"{type(decoder).__name__} has layers whose cache is the library's ({', '.join(others)}); some "
            "tokens of a text can be computed by themselves where every layer has full attention. Run the "
            "whole text with lm_kv.KVCache instead."
        )


@torch.no_grad()
def compute(
    decoder: torch.nn.Module,
    states: States,
    ids: torch.Tensor,
    tokens: torch.Tensor,
    *,
    until: int | None = None,
    watch: Watch | None = None,
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Run these tokens through the layers: each sees itself and all tokens before it, given or computed.

    Args:
        decoder: a decoder that `check_all_full` accepts.
        states: of the whole text; those of `tokens` are overwritten, layer by layer.
        ids: int64 `[1, T]`, the whole text.
        tokens: int64 `[n]`, ascending, the tokens to compute.
        until: index of the layer at which the forward ends, before anything of it is written; None to run
            all layers.
        watch: called in each layer that runs.

    Returns:
        The tokens' keys `[1, h, n, d]` and values at the layer `until`; None without it.
    """
    if not len(tokens):
        return None
    run = _Run(states, ids.shape[1], tokens, until, watch)
    # The hooks live as long as the attachment.
    attachment = adapter.attach(decoder)
    try:
        decoder(
            input_ids=ids[:, tokens],
            position_ids=tokens[None],
            past_key_values=_PartialCache(decoder, run),
            use_cache=True,
        )
    except _EndedError:
        return run.last
    finally:
        del attachment
    return None


class _EndedError(Exception):
    """The layer at which a forward ends is reached."""


@dataclass
class _Run:
    """One forward: see `compute`; `last` is what it returns."""

    states: States
    length: int
    tokens: torch.Tensor
    until: int | None
    watch: Watch | None
    last: tuple[torch.Tensor, torch.Tensor] | None = None

    def __post_init__(self) -> None:
        """Which columns the tokens see."""
        # Columns behind the last token are seen by none.
        self.columns = int(self.tokens[-1]) + 1
        columns = torch.arange(self.columns, device=self.tokens.device)
        self.visible = self.tokens[:, None] >= columns
        # A text computed from its start is plain causal attention.
        plain = len(self.tokens) == self.columns
        self.fresh = Fresh() if plain else Fresh(visible=self.visible[None])

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, logits: Logits
    ) -> torch.Tensor:
        """Store a layer's new states; attention `[1, n, H, d_v]` on all that its tokens see."""
        if layer == self.until:
            self.last = (key.clone(), value.clone())
            raise _EndedError
        states = self.states
        states.reserve(layer, self.length, key, value)
        states.put(layer, self.tokens, key, value)
        states.logits[layer] = logits
        keys, values = (x[:, :, : self.columns] for x in (states.keys[layer], states.values[layer]))
        if self.watch is not None:
            self.watch(Watched(layer, query, keys, logits, self.visible))
        return attend_some(query, [DensePart(keys, values)], logits, self.fresh)


class _PartialLayer(adapter.TaggedLayer):
    """A layer that computes some tokens; the library sees an empty one."""

    def __init__(self, index: int, run: _Run) -> None:
        super().__init__()
        self.index, self.run = index, run

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
        **kwargs: Any,
    ) -> torch.Tensor:
        logits = Logits(scaling, kwargs.get("softcap"), kwargs.get("s_aux"))
        return self.run.attend(self.index, query, key, value, logits)


class _PartialCache(adapter.LiveCache):
    """A cache for one such forward."""

    def __init__(self, decoder: torch.nn.Module, run: _Run) -> None:
        layers, self.compressed_layers = layers_for(decoder, lambda i: _PartialLayer(i, run))
        super().__init__(layers=layers)
