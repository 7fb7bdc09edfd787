"""One text that is put together: its chunks at their places, and what was computed of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dcache.lm_kv.model.partial import Watch, compute
from dcache.lm_kv.model.states import States
from dcache.lm_kv.reuse.chunk import Chunk, facts_for
from dcache.lm_kv.reuse.context import name_of
from dcache.lm_kv.reuse.known import known_of


@dataclass(frozen=True)
class Span:
    """Tokens `start` to `stop - 1`: a digest of their ids, and their chunk; None for new text."""

    start: int
    stop: int
    name: str
    chunk: Chunk | None = None


@dataclass
class Joining:
    """One text.

    Attributes:
        decoder: the model's.
        ids: int64 `[1, T]`.
        spans: its chunks and new text, in order.
        states: keys and values, turned to their places; zeros where nothing was computed yet.
        work: tokens times layers that were computed so far.
    """

    decoder: torch.nn.Module
    ids: torch.Tensor
    spans: tuple[Span, ...]
    states: States
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

    @property
    def movable(self) -> dict[int, Chunk]:
        """Index of a part -> chunk, of all chunks that have text before them."""
        pairs = enumerate(self.spans)
        return {number: span.chunk for number, span in pairs if number and span.chunk is not None}

    def unturned(self, part: int) -> States:
        """A chunk's states by itself, on the decoder's device and in its dtype."""
        chunk, parameter = self.movable[part], next(self.decoder.parameters())
        device, dtype = parameter.device, parameter.dtype
        keys = {layer: x.to(device, dtype) for layer, x in chunk.states.keys.items()}
        return States(keys, {layer: x.to(device, dtype) for layer, x in chunk.states.values.items()})

    def change(self, part: int) -> States:
        """What a chunk's states have more in this text, with keys turned back to the chunk's begin."""
        span, own = self.spans[part], self.unturned(part)
        here = self.states.part(span.start, span.stop)
        back = torch.full((1, span.stop - span.start), -span.start, device=self.ids.device)
        turn = known_of(self.decoder).rotary.turn
        keys = {i: turn(i, x, back, "shift") - own.keys[i] for i, x in here.keys.items()}
        return States(keys, {i: x - own.values[i] for i, x in here.values.items()})

    def place(self, span: Span, chunk: Chunk) -> None:
        """Lay a chunk's keys and values at a span of its length, its keys turned to there."""
        known, parameter = known_of(self.decoder), next(self.decoder.parameters())
        shift = torch.full((1, len(chunk)), span.start, device=parameter.device)
        for layer in known.layers:
            keys = chunk.states.keys[layer].to(parameter.device, parameter.dtype)
            values = chunk.states.values[layer].to(parameter.device, parameter.dtype)
            if span.start:
                keys = known.rotary.turn(layer, keys, shift, "shift")
            self.states.reserve(layer, self.ids.shape[1], keys, values)
            self.states.put(layer, slice(span.start, span.stop), keys, values)

    def compute(
        self, tokens: torch.Tensor, until: int | None = None, watch: Watch | None = None
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """`partial.compute` of tokens int64 `[n]` of this text."""
        self.work += len(tokens) * (len(self.layers) if until is None else self.layers.index(until))
        return compute(self.decoder, self.states, self.ids, tokens, until=until, watch=watch)


def begin(decoder: torch.nn.Module, parts: Sequence[Chunk | torch.Tensor]) -> Joining:
    """Lay parts behind one another, with the chunks' keys turned to their places.

    Args:
        decoder: the model's.
        parts: chunks, and ids int64 `[1, n]` of new text.

    Raises:
        DcacheError: a chunk is another model's, or keys cannot be turned.
    """
    facts, device = facts_for(decoder), next(decoder.parameters()).device
    spans, start = [], 0
    for part in parts:
        chunk, new = (part, part.ids) if isinstance(part, Chunk) else (None, part)
        spans.append(Span(start, start + new.shape[1], name_of(new), chunk))
        start += new.shape[1]
    ids = torch.cat([(part.ids if isinstance(part, Chunk) else part).to(device) for part in parts], 1)
    states = States(logits=dict(known_of(decoder).logits))
    text = Joining(decoder, ids, tuple(spans), states)
    for span in spans:
        if span.chunk is not None:
            span.chunk.check(facts)
            text.place(span, span.chunk)
    return text
