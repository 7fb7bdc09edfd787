"""`Rollout`: the state of d2Cache, confidences of masked positions and attention rollout."""

from __future__ import annotations

import torch

from dcache.diffusion_lm.drift import attention_rows
from dcache.diffusion_lm.passes import Observer, Pass
from dcache.diffusion_lm.selection import Selection
from dcache.diffusion_lm.step import Plan
from dcache.util.bytes import bytes_of


class Rollout(Observer):
    """Both for one batch; a sequence that waits keeps what it had.

    The rollout of layers A_1 to A_L is the product of (A_l + I) / 2, with the identity in rows that were not
    computed; a position's influence is the sum of its column over real positions.
    """

    def __init__(self) -> None:
        self._confidence: torch.Tensor | None = None
        self._influence: torch.Tensor | None = None
        self._product: torch.Tensor | None = None

    def begin(self, plan: Plan) -> None:
        """Begin a product of its own for the forward."""
        self._plan, self._product = plan, None

    def attended(
        self,
        forward: Pass,
        query: torch.Tensor,
        keys: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float,
    ) -> None:
        """Multiply a layer's attention to the product."""
        rows = attention_rows(query, keys, mask, scale)
        if self._product is None:
            self._product = torch.eye(rows.shape[2], device=rows.device).repeat(len(rows), 1, 1)
        selection, product = forward.selection, self._product
        self._product = selection.put(product.clone(), (rows @ product + selection.take(product)) / 2)

    def finish(self, logits: torch.Tensor, selection: Selection) -> None:
        """Measure the confidence of the masked positions that were computed, and the influence of all."""
        plan, shift = self._plan, int(self._plan.shift)
        ids, active = plan.step.ids, plan.active[:, None]
        places = (selection.positions + shift).clamp(max=ids.shape[1] - 1)
        # A masked position holds the mask token, to which it is not decoded.
        chances = logits.float().scatter(-1, ids.gather(1, places)[..., None], -torch.inf).softmax(-1)
        best = selection.put(torch.zeros(ids.shape, device=ids.device), chances.amax(-1))
        # Position 0, which no row precedes, is not masked behind a prompt.
        best, computed = (tensor.roll(shift, 1) for tensor in (best, selection.mask))
        self._confidence = best.where(computed & plan.step.masked & active, _or_zero(self._confidence, best))
        if self._product is not None:
            influence = (self._product * plan.real[..., None]).sum(1)
            self._influence = influence.where(active, _or_zero(self._influence, influence))
        self._product = None

    def notes(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Confidence and influence, once a forward has measured them."""
        if self._confidence is None or self._influence is None:
            return {}
        return {"confidence": self._confidence, "influence": self._influence}

    def grow(self, width: int) -> None:
        """Make room for positions of which nothing is known."""
        if self._confidence is not None and self._influence is not None:
            more = self._confidence.new_zeros(len(self._confidence), width - self._confidence.shape[1])
            self._confidence = torch.cat([self._confidence, more], 1)
            self._influence = torch.cat([self._influence, more], 1)

    @property
    def bytes_held(self) -> int:
        """Bytes of both."""
        return bytes_of([kept for kept in (self._confidence, self._influence) if kept is not None])


def _or_zero(before: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(like) if before is None else before
