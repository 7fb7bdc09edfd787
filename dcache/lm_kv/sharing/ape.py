"""APE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dcache.lm_kv.codecs.codec import Codec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import register

if TYPE_CHECKING:
    import torch

    from dcache.lm_kv.cache import KVCache


def ape(
    prefix: KVCache,
    contexts: Sequence[torch.Tensor],
    temperature: float = 0.9,
    scale: float = 0.9,
    rows: int = 1,
    codec: Codec | Policy | None = None,
) -> KVCache:
    """Read contexts in parallel behind one prefix (Yang, Chen & Chen 2025, arXiv 2502.05431).

    Every context is read by itself behind the prefix, all at the same positions (section 4.1 there). What
    follows attends to their tokens together, with logits divided by the temperature, and gives them a mass of
    exp(scale * temperature * LSE) (sections 4.2 and 4.3, and the authors' code); prefix and later tokens are
    attended to as usual. One context at temperature 1 and scale 1 is read as if it came in turn.

    Args:
        prefix: a cache of one row that has read what stands before every context; where there is nothing, the
            token that begins a text.
        contexts: ids int64 `[T]` of each.
        temperature: from 0.01 to 1; below 1 as published, so that attention is as sharp as on one context.
        scale: from 0.01 to 1; takes back the mass that so many parallel tokens get.
        rows: of the batch that reads them; they are stored once for all.
        codec: how the rows store what they write; None for plain.

    Returns:
        A cache whose next token stands behind the longest context.

    Raises:
        DcacheError: a context is no ids or is empty, a number is out of range, or the prefix is a cache that
            `hydragen` refuses.
    """
    from dcache.lm_kv.sharing.begun import begin, blocks_of, check_text, length_of
    from dcache.lm_kv.sharing.contexts import check_contexts, joined, read_in_parallel
    from dcache.lm_kv.storage.front import Block, Blocks
    from dcache.util.checks import check_number

    check_number("temperature", temperature, 0.01, 1.0)
    check_number("scale", scale, 0.01, 1.0)
    text = check_text(prefix, "ape")
    texts = check_contexts(contexts)
    read = read_in_parallel(text, texts)
    columns, seen = length_of(text)
    longest = max(len(ids) for ids in texts)

    def front(index: int) -> Blocks:
        block = Block(joined(read.layers[index].store), temperature, scale)
        return Blocks((*blocks_of(text.layers[index]), block))

    return begin(
        text, "ape", rows, lambda layer: front(layer.index), (columns + longest, seen + longest), codec
    )


register("sharing", ape)
