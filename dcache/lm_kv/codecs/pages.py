"""Pages: neighbours of a run by their mean key."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def page_means(keys: torch.Tensor, valid: torch.Tensor, page: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each page's mean key `[R, pages, d]`, and the least cosine of a key with it `[R, pages]`.

    Args:
        keys: `[R, n, d]`.
        valid: bool `[R, n]`, False at unused slots.
        page: tokens of a page.
    """
    missing = -keys.shape[1] % page
    pages = F.pad(keys.float(), (0, 0, 0, missing)).unflatten(1, (-1, page))
    there = F.pad(valid, (0, missing)).unflatten(1, (-1, page))
    means = (pages * there[..., None]).sum(2) / there.sum(2).clamp_min(1)[..., None]
    cosines = F.cosine_similarity(pages, means[:, :, None], dim=-1).masked_fill(~there, float("inf"))
    return means, cosines.amin(2)


def unlike_pages(keys: torch.Tensor, valid: torch.Tensor, page: int, count: int) -> torch.Tensor:
    """Bool `[R, pages]`: the `count` pages of a run that have a key least like their mean; at most a 16th."""
    _, least = page_means(keys, valid, page)
    rank = least.argsort(dim=1, stable=True).argsort(dim=1)
    number = (valid.sum(1) // (16 * page)).clamp_max(count)
    return rank < number[:, None]
