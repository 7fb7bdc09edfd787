"""Chunks of text put behind one another into a cache that generation goes on with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F

from dcache.errors import DcacheError
from dcache.lm_kv.cache import KVCache
from dcache.lm_kv.model.families import decoder_of
from dcache.lm_kv.reuse.chunk import Chunk, row_of
from dcache.lm_kv.reuse.joining import Joining, begin
from dcache.lm_kv.reuse.method import Reuse, reuse_of


@dataclass(frozen=True, eq=False)
class Joined:
    """Texts that were put together, one a row.

    Attributes:
        cache: it holds them.
        ids: int64 `[B, T]`, with pads in front of shorter rows.
        mask: int64 `[B, T]`, 0 at pads.
        tokens: bool `[B, T]`, what was computed through all layers.
        computed: of each row, the share of a whole prefill's tokens times layers that was computed.
    """

    cache: KVCache
    ids: torch.Tensor = field(repr=False)
    mask: torch.Tensor = field(repr=False)
    tokens: torch.Tensor = field(repr=False)
    computed: tuple[float, ...]

    def inputs(self, question: torch.Tensor) -> dict[str, torch.Tensor]:
        """What `model.generate` takes beside the cache: all ids and their mask.

        Args:
            question: int64 `[n]`, `[1, n]` for all rows, or `[B, n]`, the new tokens.

        Raises:
            DcacheError: it is none of these.
        """
        rows = len(self.ids)
        if not isinstance(question, torch.Tensor):
            raise DcacheError(f"question must be a tensor of ids, got {type(question).__name__}")
        new = question[None] if question.ndim == 1 else question
        if new.ndim != 2 or len(new) not in (1, rows) or not new.shape[1]:
            raise DcacheError(
                f"question must be ids of shape [{rows}, n] or [n] with n > 0, got {tuple(question.shape)}"
            )
        new = new.to(self.ids.device, torch.long).expand(rows, -1)
        return {
            "input_ids": torch.cat([self.ids, new], 1),
            "attention_mask": torch.cat([self.mask, torch.ones_like(new)], 1),
        }


Part = Chunk | torch.Tensor


@torch.no_grad()
def join(
    model: Any,
    chunks: Sequence[Part] | Sequence[Sequence[Part]],
    method: Reuse | str = "cacheblend",
    *,
    cache: KVCache | None = None,
) -> Joined:
    """Put chunks and new text behind one another, and compute some of the chunks' tokens again.

    Args:
        model: a causal language model of transformers, or what wraps one.
        chunks: what `encode` gave, and ids int64 `[n]` of text that is computed here, in the order of the
            text; or such a list for each row of a batch.
        method: a way of reuse such as `cacheblend(ratio=0.15)`, or its name.
        cache: an empty cache of this model that takes them in; None for one that keeps everything. Its
            policy evicts behind the next call with several tokens, or at `compress()`.

    Raises:
        DcacheError: there is nothing to join, a chunk is another model's, the cache holds something already,
            keys cannot be turned, or a layer's attention is not full.
    """
    decoder = decoder_of(model)
    way = reuse_of(method)
    target = KVCache(model, "keydiff", budget=1.0) if cache is None else cache
    if not isinstance(target, KVCache) or target.decoder is not decoder:
        what = "another model's" if isinstance(target, KVCache) else f"a {type(target).__name__}"
        raise DcacheError(f"cache is {what}: make it with lm_kv.KVCache(model, ...) of this model")
    texts, chosen = [], []
    for parts in _rows_of(chunks):
        text = begin(decoder, [_part(part, decoder) for part in parts])
        tokens = way.rule(text) | ~text.reused
        text.compute(tokens.nonzero()[:, 0])
        if way.learn is not None:
            way.learn(text, tokens)
        texts.append(text)
        chosen.append(tokens)
    return _stack(target, texts, chosen)


def _rows_of(chunks: Any) -> list[list[Any]]:
    """The parts of each row."""
    parts = list(chunks) if isinstance(chunks, Sequence) and not isinstance(chunks, str) else []
    nested = [isinstance(part, Sequence) for part in parts]
    rows = [list(part) for part in parts] if parts and all(nested) else [parts]
    if any(nested) != all(nested) or not all(rows):
        raise DcacheError(
            "chunks must be a list of what lm_kv.encode gave and of ids, or one such list for each row of a "
            f"batch, none of them empty; got {type(chunks).__name__}"
            + (f" of {len(parts)}" if isinstance(chunks, Sequence) else "")
        )
    return rows


def _part(part: Any, decoder: torch.nn.Module) -> Part:
    return part if isinstance(part, Chunk) else row_of(part, decoder, "a part of the text that is no chunk")


def _stack(cache: KVCache, texts: Sequence[Joining], chosen: Sequence[torch.Tensor]) -> Joined:
    """Fill the cache with all rows, shorter ones with pads in front."""
    longest = max(text.ids.shape[1] for text in texts)
    pads = [longest - text.ids.shape[1] for text in texts]

    def padded(tensors: Sequence[torch.Tensor], dims: int) -> torch.Tensor:
        # The dimensions behind that of tokens are left alone.
        return torch.cat([F.pad(x, (*((0, 0) * dims), n, 0)) for x, n in zip(tensors, pads, strict=True)])

    ids = padded([text.ids for text in texts], 0)
    mask = padded([torch.ones_like(text.ids) for text in texts], 0)
    layers = texts[0].layers
    cache.fill(
        {i: padded([text.states.keys[i] for text in texts], 1) for i in layers},
        {i: padded([text.states.values[i] for text in texts], 1) for i in layers},
        texts[0].states.logits,
        ids,
        mask.bool(),
    )
    shares = tuple(text.work / (text.ids.shape[1] * len(layers)) for text in texts)
    return Joined(cache, ids, mask, padded([tokens[None] for tokens in chosen], 0), shares)
