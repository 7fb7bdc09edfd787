"""Cache-Craft: of a chunk that was computed behind other text, the tokens that looked there most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.reuse.method import Reuse, reuse
from dcache.util.checks import check_number

if TYPE_CHECKING:
    from dcache.lm_kv.reuse.chunk import Chunk
    from dcache.lm_kv.reuse.context import Context
    from dcache.lm_kv.reuse.joining import Joining


def context_impact(context: Context) -> float:
    """CCI, equations 9 to 11: 1 / (1 + exp(-a / b)).

    a is the sum over the parts before of inter / (|chunk| |part|), b is intra / |chunk|^2, both the mean over
    layers.
    """
    length = len(context.tokens)
    a = float((context.inter / context.lengths).sum(1).mean()) / length
    b = float(context.intra.mean()) / length**2
    return 1.0 / (1.0 + math.exp(-a / b))


def overlap(context: Context, names: Sequence[str]) -> float:
    """beta', equations 6 to 8: of a chunk's attention to parts before it, the share of those still there.

    It is lowered by the share of pairs of these parts that stand in another order (Kendall's tau).

    Args:
        context: the chunk's.
        names: of the parts before it in the new text.
    """
    there = torch.tensor([name in names for name in context.names])
    total = context.inter.sum(0)
    beta = float(total[there].sum() / total.sum())
    places = [names.index(name) for name in context.names if name in names]
    pairs = [(x, y) for i, x in enumerate(places) for y in places[i + 1 :]]
    exchanged = sum(x > y for x, y in pairs) / len(pairs) if pairs else 0.0
    return beta * (1.0 - exchanged)


@dataclass(frozen=True)
class LookedOutside:
    """Of each chunk the share CFO = alpha CCI (1 - beta') of its tokens, those with the most inter attention.

    Attributes:
        alpha: factor of the share.
        variants: chunks computed behind other text; the one with the least share is taken for its text.
    """

    alpha: float
    variants: tuple[Chunk, ...] = ()

    def __call__(self, text: Joining) -> torch.Tensor:
        """Bool `[T]`."""
        tokens = torch.zeros_like(text.reused)
        names = [span.name for span in text.spans]
        for number, span in enumerate(text.spans):
            if span.chunk is None:
                continue
            own = [variant for variant in self.variants if variant.name == span.name]
            shares = [self._share(chunk, names[:number]) for chunk in (span.chunk, *own)]
            best = min(range(len(shares)), key=lambda i: shares[i])
            chunk = (span.chunk, *own)[best]
            if best:
                text.place(span, chunk)
            count = math.ceil(shares[best] * len(chunk) - 1e-9)
            if count and chunk.context is not None:
                order = chunk.context.tokens.argsort(descending=True, stable=True)[:count]
                tokens[span.start + order.to(tokens.device)] = True
        return tokens

    def _share(self, chunk: Chunk, names: list[str]) -> float:
        """CFO, equation 12, at most 1: how many of a chunk's tokens are computed again behind these parts."""
        if chunk.context is None:
            if not names:
                return 0.0
            raise DcacheError(
                "cache_craft reads what a chunk attended to before itself, and this one was computed by "
                "itself: encode it with behind=[...], or join by cacheblend"
            )
        if chunk.context.names == tuple(names):
            return 0.0
        return min(1.0, self.alpha * context_impact(chunk.context) * (1.0 - overlap(chunk.context, names)))


@reuse
def cache_craft(alpha: float = 1.0, variants: Sequence[Chunk] = ()) -> Reuse:
    """Reuse: compute those tokens of a chunk again that looked most at text which is not there now.

    Agarwal et al. 2025 (arXiv 2502.15734), equations 3 to 14, without the early stop at chunks that the
    question does not attend to.

    Args:
        alpha: factor of the share of tokens, at least 0.
        variants: the same texts, computed behind other text.

    Raises:
        DcacheError: an option is outside its range.
    """
    check_number("alpha", alpha, 0.0)
    if not isinstance(variants, list | tuple) or not all(hasattr(variant, "states") for variant in variants):
        raise DcacheError(f"variants must be a list of chunks that lm_kv.encode gave, got {variants!r}")
    return Reuse(rule=LookedOutside(alpha, tuple(variants)))
