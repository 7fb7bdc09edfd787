"""`LayerRows`: dLLM-Cache's state, which computes other rows in each layer.

All rows of a forward pass through every layer. A layer computes some of them, and adds to the others what it
added to them when they were computed last. Which ones is decided by the layer's values, the cheapest
projection, whose change goes along with that of the layer's output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dcache.diffusion_lm.passes import Observer, Pass
from dcache.diffusion_lm.selection import Selection
from dcache.diffusion_lm.step import Plan
from dcache.kernels import RowIndex, scatter_rows
from dcache.util.bytes import bytes_of

# Cosine distance below which values are the same.
UNCHANGED = 1e-4


class LayerRows(Observer):
    """Rows by layer for one batch.

    Args:
        layers: how many the model has; the first one computes all rows of the forward.
        share: of the rows that a layer chooses from, those it computes.
        response: forwards of a sequence after which all rows of its answer are computed.
    """

    def __init__(self, layers: int, share: float, response: int) -> None:
        self.share, self.response = share, response
        self._added: list[torch.Tensor | None] = [None] * layers
        self._outer: Selection | None = None
        self._inner: Selection | None = None

    def begin(self, plan: Plan) -> None:
        """Divide the rows into those that every layer computes, and those that a layer chooses from."""
        due = (plan.step.turns % self.response == 0)[:, None]
        region = plan.step.region & plan.real & plan.active[:, None]
        self._free = plan.rows & region & ~plan.required & ~due
        self._always = plan.rows & ~self._free
        self._count = (region.sum(1) * self.share).long()
        self._partial = bool(self._free.any())
        self._chooses = self._partial and bool(self._count.any())
        self._left_out = torch.zeros((), dtype=torch.long, device=region.device)
        self.reason = "" if self._partial or plan.required.all() else "interval"

    def enter(
        self, forward: Pass, layer: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Keep some rows of a layer's arguments."""
        self._hidden = args[0] if args else kwargs["hidden_states"]
        self._outer, self._inner = forward.selection, None
        if self._partial:
            # The masks of an earlier pass are used, whose rows the selection names.
            forward.capture = False
        # Values of the first layer follow from tokens alone: they do not tell what a masked row attends to.
        if not self._partial or layer == 0:
            return None
        rows = self._always
        if self._chooses:
            values = forward.values_of(lambda: module.forward(*args, **kwargs))
            rows = rows | self._changed(forward, values)
        self._left_out += self._outer.mask.sum() - rows.sum()
        self._inner = forward.selection = Selection(rows, least=1)
        slots = self._outer.slots.gather(1, self._inner.positions)
        K = self._hidden.shape[1]
        self._slots = RowIndex(torch.where(self._inner.named, slots, -1), K)
        self._chosen = _taken(self._hidden, slots, K)
        return tuple(_taken(value, slots, K) for value in args), {
            name: _taken(value, slots, K) for name, value in kwargs.items()
        }

    def leave(self, forward: Pass, layer: int, output: Any) -> Any:
        """Give the other rows what the layer added to them last."""
        fresh: torch.Tensor = output[0] if isinstance(output, tuple) else output
        outer, inner, added = self._outer, self._inner, self._added[layer]
        if outer is None or inner is None or added is None:
            change = fresh - self._hidden
            if outer is None or added is None or outer.full:
                self._added[layer] = change
            else:
                outer.put(added, change)
            return None
        forward.selection = outer
        inner.put(added, fresh - self._chosen)
        hidden = scatter_rows(self._hidden + outer.take(added), self._slots, fresh, 1)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def finish(self, logits: torch.Tensor, selection: Selection) -> None:
        """Count the rows that layers left out."""
        self.extra = -int(self._left_out) / len(self._added)

    def _changed(self, forward: Pass, values: torch.Tensor) -> torch.Tensor:
        """Rows bool `[B, T]` of the least similar values; the values of all rows are stored."""
        outer = forward.selection
        before, new = forward.store.exchange_values(forward.calls, values, outer)
        # Values of the first layer that did not change differ by rounding alone: ties go to the left.
        similar = F.cosine_similarity(new.float(), before.float(), dim=-1).clamp(max=1 - UNCHANGED)
        score = outer.put(torch.zeros(outer.mask.shape, device=similar.device), similar)
        score = score.masked_fill(~self._free, torch.inf)
        rank = score.argsort(dim=1, stable=True).argsort(1)
        return self._free & (rank < self._count[:, None])

    def grow(self, width: int) -> None:
        """Make room for positions to which no layer has added anything."""
        for layer, added in enumerate(self._added):
            if added is not None:
                more = added.new_zeros(len(added), width - added.shape[1], added.shape[2])
                self._added[layer] = torch.cat([added, more], 1)

    @property
    def bytes_held(self) -> int:
        """Bytes of what layers added to their rows."""
        return bytes_of([added for added in self._added if added is not None])


def _taken(value: Any, slots: torch.Tensor, K: int) -> Any:
    """Rows of tensors `[B or 1, K, ...]`, also in tuples; masks have four dimensions and are not used."""
    if isinstance(value, tuple):
        return tuple(_taken(part, slots, K) for part in value)
    if not isinstance(value, torch.Tensor) or value.ndim not in (2, 3) or value.shape[1] != K:
        return value
    value = value.expand(len(slots), *value.shape[1:])
    index = slots if value.ndim == 2 else slots[..., None].expand(-1, -1, value.shape[2])
    return value.gather(1, index)
