"""One text that is put together: its chunks at their places, and what was computed of it."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.model.attention import Logits
from dcache.lm_kv.model.families import layers_for
from dcache.lm_kv.model.partial import States, Watch, check_all_full, compute
from dcache.lm_kv.model.rotary import Rotary, find_rotary
from dcache.lm_kv.reuse.chunk import Chunk, facts_for


@dataclass(frozen=True)
class Known:
    """What is found out about a decoder once.

    Attributes:
        layers: indices of its layers.
        rotary: their rotations.
        logits: how they make logits.
    """

    layers: list[int]
    rotary: Rotary
    logits: dict[int, Logits]


_known: weakref.WeakKeyDictionary[torch.nn.Module, Known] = weakref.WeakKeyDictionary()


def known_of(decoder: torch.nn.Module) -> Known:
    """What must be known of a decoder to put chunks together for it.

    Raises:
        DcacheError: a layer's attention is not full, or keys cannot be turned.
    """
    if decoder not in _known:
        check_all_full(decoder)
        layers = layers_for(decoder, lambda _: object())[1]  # type: ignore[arg-type, return-value]
        try:
            rotary = find_rotary(decoder, layers)
        except DcacheError as error:
            raise DcacheError(
                f"chunks of {type(decoder).__name__} cannot stand at other places than where they were "
                f"computed: {str(error).partition('. ')[0]}. Run the whole text instead."
            ) from None
        token = torch.zeros(1, dtype=torch.long, device=next(decoder.parameters()).device)
        states = States()
        compute(decoder, states, token[None], token)
        _known[decoder] = Known(layers, rotary, states.logits)
    return _known[decoder]


@dataclass(frozen=True)
class Span:
    """Tokens `start` to `stop - 1`, and the chunk that they are; None for new text."""

    start: int
    stop: int
    chunk: Chunk | None = None


@dataclass
class Joining:
    """One text.

    Attributes:
        decoder: the model's.
        ids: int64 `[1, T]`.
        spans: its chunks and new text, in order.
        states: keys and values, turned to their places; zeros where nothing was computed yet.
        question: int64 `[1, q]`, what will be asked behind it; None where that was not said.
        work: tokens times layers that were computed so far.
    """

    decoder: torch.nn.Module
    ids: torch.Tensor
    spans: tuple[Span, ...]
    states: States
    question: torch.Tensor | None = None
    work: int = 0

    @property
    def layers(self) -> list[int]:
        """Indices of the decoder's layers."""
        return known_of(self.decoder).layers

    @property
    def reused(self) -> torch.Tensor:
        """Bool `[T]`: the tokens of chunks."""
        mask = torch.zeros(self.ids.shape[1], dtype=torch.bool, device=self.ids.device)
        for span in self.spans:
            mask[span.start : span.stop] = span.chunk is not None
        return mask

    def compute(
        self, tokens: torch.Tensor, until: int | None = None, watch: Watch | None = None
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """`partial.compute` of tokens int64 `[n]` of this text."""
        self.work += len(tokens) * (len(self.layers) if until is None else self.layers.index(until))
        return compute(self.decoder, self.states, self.ids, tokens, until=until, watch=watch)


def begin(
    decoder: torch.nn.Module, parts: Sequence[Chunk | torch.Tensor], question: torch.Tensor | None
) -> Joining:
    """Lay parts behind one another, with the chunks' keys turned to their places.

    Args:
        decoder: the model's.
        parts: chunks, and ids int64 `[1, n]` of new text.
        question: ids of what will be asked.

    Raises:
        DcacheError: a chunk is another model's, or keys cannot be turned.
    """
    known, facts = known_of(decoder), facts_for(decoder)
    device, dtype = next(decoder.parameters()).device, next(decoder.parameters()).dtype
    spans, start = [], 0
    for part in parts:
        length = len(part) if isinstance(part, Chunk) else part.shape[1]
        spans.append(Span(start, start + length, part if isinstance(part, Chunk) else None))
        start += length
    ids = torch.cat([(part.ids if isinstance(part, Chunk) else part).to(device) for part in parts], 1)
    states = States(logits=dict(known.logits))
    for span in spans:
        if span.chunk is None:
            continue
        span.chunk.check(facts)
        shift = torch.full((1, len(span.chunk)), span.start, device=device)
        for layer in known.layers:
            keys = span.chunk.states.keys[layer].to(device, dtype)
            values = span.chunk.states.values[layer].to(device, dtype)
            if span.start:
                keys = known.rotary.turn(layer, keys, shift, "shift")
            states.reserve(layer, start, keys, values)
            states.put(layer, slice(span.start, span.stop), keys, values)
    return Joining(decoder, ids, tuple(spans), states, question)
