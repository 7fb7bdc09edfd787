"""`Drift`: Elastic-Cache's test, and the refresh of all rows from a layer on.

For each layer the attention row of a tracked token, the decoded one that the window attends to most, is
compared with its last one. Where they differ too much, all rows of that sequence are computed from the next
layer on, those outside the forward's rows from their stored hidden states.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from dcache.diffusion_lm.passes import Observer, Pass
from dcache.diffusion_lm.selection import Selection
from dcache.diffusion_lm.step import Plan
from dcache.errors import DcacheError
from dcache.util.bytes import bytes_of

When = Literal["now", "next"]


class Drift(Observer):
    """The test of one batch, for each sequence by itself.

    Args:
        layers: how many the model has.
        gamma: least cosine similarity.
        when: "now" refreshes from the next layer on, as published, which reads a result of the device in
            every layer; "next" reads all layers' results once a step, and refreshes in the next forward.
        window: masked positions of the decode window.
    """

    def __init__(self, layers: int, gamma: float, when: When, window: int) -> None:
        self.gamma, self.when, self.count, self.window = gamma, when, layers, window
        self._hidden: list[torch.Tensor | None] = [None] * layers
        self._attention: list[torch.Tensor | None] = [None] * layers
        self._tracked: list[torch.Tensor | None] = [None] * layers
        self._arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = [((), {})] * layers
        self._layer = -1
        self._switched = False
        # First layer of a refresh, by sequence: `count` for none.
        self._fire: torch.Tensor | None = None
        self._pending: torch.Tensor | None = None

    def begin(self, plan: Plan) -> None:
        """Take over what the forward computes, and which sequences the last one's tests refresh."""
        self._window, self._rows, self._active = plan.step.leftmost(self.window), plan.rows, plan.active
        self._real, self._decoded = plan.real, plan.real & ~plan.step.masked
        never = torch.full_like(plan.active, self.count, dtype=torch.long)
        self._fire = never if self._pending is None else torch.where(plan.active, self._pending, self.count)
        # A sequence that waits keeps its result.
        self._pending = (
            never if self._pending is None else torch.where(plan.active, self.count, self._pending)
        )
        self._layer, self._switched, self.extra, self.reason = -1, False, 0.0, ""

    def notes(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tracked tokens of all layers."""
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for tokens in self._tracked:
            if tokens is not None:
                mask.scatter_(
                    1,
                    tokens.clamp(min=0)[:, None],
                    (tokens >= 0)[:, None] | mask.gather(1, tokens.clamp(min=0)[:, None]),
                )
        return {"tracked": mask}

    @property
    def bytes_held(self) -> int:
        """Bytes of hidden states and attention rows."""
        return bytes_of([t for t in (*self._hidden, *self._attention) if t is not None])

    def attended(
        self,
        forward: Pass,
        query: torch.Tensor,
        keys: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float,
    ) -> None:
        """Compare and store the attention rows of a layer, and choose the token to track next."""
        layer = self._layer
        if layer < 0:
            raise DcacheError("elastic found attention outside the model's layers: use another policy")
        rows = attention_rows(query, keys, mask, scale)
        if forward.capture:
            self._attention[layer] = rows
        else:
            self._test(forward, layer, rows)
            forward.selection.put(self._attention[layer], rows)  # type: ignore[arg-type]
        self._track(forward, layer, rows)

    def _test(self, forward: Pass, layer: int, rows: torch.Tensor) -> None:
        tokens, old, fire = self._tracked[layer], self._attention[layer], self._fire
        if tokens is None or old is None or fire is None or self._pending is None:
            return
        places = tokens.clamp(min=0)[:, None]
        new = rows.gather(
            1, forward.selection.slots.gather(1, places)[..., None].expand(-1, -1, rows.shape[2])
        )
        before = old.gather(1, places[..., None].expand(-1, -1, rows.shape[2]))
        similar = F.cosine_similarity(new.float(), before.float(), dim=-1)[:, 0]
        computed = self._rows.gather(1, places)[:, 0]
        # A sequence that is refreshed has no stale rows to test from here on.
        failed = (similar < self.gamma) & (tokens >= 0) & computed & self._active & (fire > layer)
        target = fire if self.when == "now" else self._pending
        first = torch.where(failed, target.clamp(max=layer + 1), target)
        if self.when == "now":
            self._fire = first
        else:
            self._pending = first

    def _track(self, forward: Pass, layer: int, rows: torch.Tensor) -> None:
        selection = forward.selection
        window = selection.take(self._window) & selection.named
        votes = (rows * window[..., None]).sum(1).masked_fill(~self._decoded, -1.0)
        best = torch.where(self._decoded.any(1), votes.argmax(1), -1)
        previous = self._tracked[layer]
        # A sequence that waits keeps its token.
        self._tracked[layer] = best if previous is None else torch.where(self._active, best, previous)

    def enter(
        self, forward: Pass, layer: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Store the layer's input, and put all rows of sequences that are refreshed from here on into it."""
        self._layer = layer
        hidden: torch.Tensor = args[0] if args else kwargs["hidden_states"]
        stored = self._hidden[layer]
        if forward.capture or stored is None:
            self._hidden[layer] = hidden.clone()
            self._arguments[layer] = (
                args[1:],
                {key: value for key, value in kwargs.items() if _is_tensors(value)},
            )
            return None
        forward.selection.put(stored, hidden)
        fired = (self._fire == layer) if self._fire is not None else torch.zeros(0, dtype=torch.bool)
        if bool(fired.any()):
            mask = forward.selection.mask | (fired[:, None] & self._real)
            more = int(mask.sum()) - int(forward.selection.mask.sum())
            self.extra += more * (self.count - layer) / self.count
            self.reason = "drift" if self.extra else ""
            forward.selection, self._switched = Selection(mask, wide=True), True
            hidden = stored.clone()
        if not self._switched:
            return None
        # The model's loop hands on what belongs to the rows that the forward began with.
        positional, named = self._arguments[layer]
        every = {**kwargs, **named}
        if args:
            pairs = zip(positional, args[1:], strict=True)
            return (hidden, *(whole if _is_tensors(whole) else now for whole, now in pairs)), every
        return args, {**every, "hidden_states": hidden}


def attention_rows(
    query: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Attention probabilities `[B, K, T]`, the mean over heads."""
    groups = query.shape[1] // keys.shape[1]
    logits = query.float() @ keys.float().repeat_interleave(groups, 1).transpose(2, 3) * scale
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    return logits.softmax(-1).mean(1)


def _is_tensors(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (
        isinstance(value, tuple) and bool(value) and all(isinstance(part, torch.Tensor) for part in value)
    )
