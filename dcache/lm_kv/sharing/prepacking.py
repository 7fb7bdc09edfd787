"""Prepacking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dcache.lm_kv.registry import register

if TYPE_CHECKING:
    import torch

    from dcache.lm_kv.cache import KVCache


def prepacking(cache: KVCache, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> KVCache:
    """Read a padded batch as one row without pads (Zhao et al. 2024, arXiv 2404.09529).

    The rows' true tokens follow each other in one row, positions begin anew with each text, and a token
    attends to its own text alone (section 3 there). Keys and values go to the batch's rows in the cache. All
    but the last column is read, which `generate` reads then, as in the authors' code.

    Args:
        cache: an empty one, of any policy; tokens are evicted from it as behind a padded batch.
        input_ids: int64 `[B, T]`, pads in front.
        attention_mask: `[B, T]`, 0 at pads.

    Returns:
        The same cache: `model.generate(input_ids, attention_mask=attention_mask, past_key_values=cache)`.

    Raises:
        DcacheError: the cache holds something, a row ends with a pad, the batch has fewer than two columns or
            nothing in front of the last one, or some layers of the model have the library's cache.
    """
    from dcache.lm_kv.sharing.packed import read_packed

    read_packed(cache, input_ids, attention_mask)
    return cache


register("sharing", prepacking)
