"""The pages of a segment that one query reads, whole ones or with the last one cut."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dcache.lm_kv.model.attention import Logits
from dcache.lm_kv.scoring.selectors import Selector
from dcache.lm_kv.storage.parts import DensePart
from dcache.lm_kv.storage.segment import Segment


def chosen(
    segment: Segment,
    index: Mapping[str, torch.Tensor],
    selector: Selector,
    query: torch.Tensor,
    logits: Logits,
    limit: torch.Tensor,
    sinks: torch.Tensor,
) -> tuple[DensePart, torch.Tensor]:
    """The tokens of a segment that one query reads.

    A page's score is the softmax over all pages of its guessed logits, the mean over the group's heads; pages
    with sinks, and those in the index's `always` up to a quarter of the limit, come first. The best are taken
    as long as they fit.

    Args:
        segment: all tokens of every row.
        index: what the selector looks at.
        selector: guesses logits.
        query: `[B, H, 1, d]`, what it is asked.
        logits: how the layer makes logits.
        limit: int64 `[B]`, tokens that each KV head may read.
        sinks: int64 `[B]`, first tokens that are always read.

    Returns:
        Their keys and values in ascending order of position, and float `[B]`, how many a KV head reads.
    """
    lengths = segment.lengths
    rows, heads = lengths.shape
    grouped = query.float().reshape(rows, heads, -1, query.shape[3])
    index = {**index, "limit": limit}
    if selector.reads_keys:
        index["keys"] = segment.pad(segment.keys_where_they_lie())
    guessed = logits.of(selector.products(grouped, index))
    if "sizes" in index:
        tokens = _pages_with_the_last_cut(segment, guessed, index["sizes"].long(), limit, sinks)
    else:
        tokens = _whole_pages(segment, index, guessed, selector.page, limit, sinks)
    read = tokens.sum(-1)
    # A stable sort moves what is read to the front, in order.
    slots = (~tokens).int().argsort(dim=-1, stable=True)[..., : int(read.max())]
    starts = (lengths.flatten().cumsum(0) - lengths.flatten()).view(rows, heads, 1)
    valid = tokens.gather(-1, slots)
    places = (starts + slots).masked_fill(~valid, 0)
    return DensePart(*segment.tokens(places), valid), read.float().mean(1)


def _shares(guessed: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Scores of pages `[B, h, pages]` from logits `[B, h, G, pages]`; 0 where there is no page."""
    scores = guessed.masked_fill(~there[:, :, None], float("-inf"))
    return scores.softmax(-1).nan_to_num(0.0).mean(2)


def _whole_pages(
    segment: Segment,
    index: Mapping[str, torch.Tensor],
    guessed: torch.Tensor,
    page: int,
    limit: torch.Tensor,
    sinks: torch.Tensor,
) -> torch.Tensor:
    """Bool `[B, h, width]`: tokens of the best pages, all of `page` tokens, as long as they fit."""
    lengths = segment.lengths
    start = torch.arange(guessed.shape[-1], device=guessed.device) * page
    there = start < lengths[..., None]
    scores = _shares(guessed, there)
    sizes = (lengths[..., None] - start).clamp(0, page)
    first = start < sinks[:, None, None]
    if "always" in index:
        always = index["always"]
        # At most a quarter of what is read; published, 384 tokens of 2048.
        first = first | (always & ((sizes * always).cumsum(-1) <= limit[:, None, None] // 4))
    scores = scores.masked_fill(there & first, float("inf"))
    order = scores.masked_fill(~there, -1.0).argsort(dim=-1, descending=True, stable=True)
    fits = sizes.gather(-1, order).cumsum(-1) <= limit[:, None, None]
    pages = torch.zeros_like(there).scatter(-1, order, fits) & there
    return pages.repeat_interleave(page, -1)[..., : segment.width] & segment.valid


def _pages_with_the_last_cut(
    segment: Segment, guessed: torch.Tensor, sizes: torch.Tensor, limit: torch.Tensor, sinks: torch.Tensor
) -> torch.Tensor:
    """Bool `[B, h, width]`: sinks, then tokens of the best pages in order until the limit is reached.

    Pages are of any length, so the last one is read as far as it fits: a page that is longer than the limit
    would otherwise leave it unused.
    """
    ends = sizes.cumsum(-1)
    # Sinks are read anyway, and are of no page.
    begins = (ends - sizes).maximum(sinks[:, None, None])
    rest = (ends - begins).clamp_min(0)
    scores = _shares(guessed, sizes > 0).masked_fill(sizes == 0, -1.0)
    order = scores.argsort(dim=-1, descending=True, stable=True)
    ordered = rest.gather(-1, order)
    before = torch.zeros_like(rest).scatter(-1, order, ordered.cumsum(-1) - ordered)
    slots = torch.arange(segment.width, device=sizes.device).expand(*sizes.shape[:2], -1)
    page = torch.searchsorted(ends, slots.contiguous(), right=True).clamp_max(sizes.shape[-1] - 1)
    rank = before.gather(-1, page) + slots - begins.gather(-1, page)
    fits = rank < (limit - sinks)[:, None, None]
    return segment.valid & ((slots < sinks[:, None, None]) | fits)
