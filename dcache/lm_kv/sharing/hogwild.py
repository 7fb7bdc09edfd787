"""Hogwild! inference."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dcache.lm_kv.registry import register

if TYPE_CHECKING:
    from dcache.lm_kv.cache import KVCache


def hogwild(prompt: KVCache, workers: int) -> KVCache:
    """Workers that write side by side and read each other at once (Rodionov et al. 2025, arXiv 2504.06261).

    A row is a worker. It reads the prompt, then what the others have written so far, then what it wrote
    itself, as one text without gaps (the contiguous layout there). Keys are stored once and stay where they
    are: a row's queries are turned for every other text by the distance between the place it has and the one
    at which this row reads it. One worker is plain generation.

    Args:
        prompt: a cache of one row that has read what all workers read first; it may go on by itself.
        workers: rows of the batch.

    Returns:
        A cache for as many rows, which keeps all that they write. Its calls get the new tokens, and masks
        that begin with the prompt. Tokens of one call are read by the other rows in the same call.

    Raises:
        DcacheError: the prompt is a cache that `hydragen` refuses, the model places tokens by something other
            than a rotation with fixed frequencies, or workers is no whole number of at least 1.
    """
    from dcache.lm_kv.model.rotary import find_rotary
    from dcache.lm_kv.sharing.begun import begin, blocks_of, check_text, length_of
    from dcache.lm_kv.storage.front import Blocks, Workers

    text = check_text(prompt, "hogwild")
    rotary = find_rotary(text.decoder, text.compressed_layers)
    return begin(
        text,
        "hogwild",
        workers,
        lambda layer: Workers(Blocks(blocks_of(layer)), partial(rotary.turn, layer.index, mode="shift")),
        length_of(text),
    )


register("sharing", hogwild)
