"""Several texts read side by side behind one prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.cache import KVCache
from dcache.lm_kv.codecs.codec import Plain
from dcache.lm_kv.sharing.begun import begin, blocks_of, length_of
from dcache.lm_kv.storage.front import Blocks
from dcache.lm_kv.storage.segment import Segment
from dcache.lm_kv.storage.store import LayerStore


def check_contexts(contexts: Any) -> list[torch.Tensor]:
    """Ids of each text.

    Raises:
        DcacheError: one is no ids int64 `[T]`, is empty, or there is none.
    """
    texts = list(contexts) if isinstance(contexts, Sequence | torch.Tensor) else []
    if not texts:
        raise DcacheError(f"contexts must be a list of ids, one tensor for each text, got {contexts!r}")
    for ids in texts:
        if not isinstance(ids, torch.Tensor) or ids.ndim != 1 or ids.dtype != torch.int64 or not len(ids):
            what = f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, torch.Tensor) else repr(ids)
            raise DcacheError(
                f"every context must be ids int64 [T] without pads, at least one, got {what}: give one "
                "tensor for each, such as tokenizer(text, return_tensors='pt').input_ids[0]"
            )
    return texts


@torch.no_grad()
def read_in_parallel(prefix: KVCache, texts: Sequence[torch.Tensor]) -> KVCache:
    """A cache with a row for each text, all at the positions behind the prefix, in one call.

    Args:
        prefix: a cache of one row.
        texts: ids int64 `[T]` of each.
    """
    columns, seen = length_of(prefix)
    longest = max(len(ids) for ids in texts)
    device = next(prefix.decoder.parameters()).device
    ids = torch.zeros(len(texts), longest, dtype=torch.long, device=device)
    mask = torch.zeros(len(texts), columns + longest, dtype=torch.long, device=device)
    mask[:, :columns] = 1
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, columns : columns + len(text)] = text.to(device), 1
    cache = begin(prefix, "contexts", len(texts), lambda layer: Blocks(blocks_of(layer)), (columns, seen))
    # Of a text's own pads nothing is read.
    positions = torch.arange(seen, seen + longest, device=device).expand(len(texts), -1)
    prefix.decoder(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache)
    return cache


def joined(store: LayerStore) -> Segment:
    """What the rows of a store hold as one run for each KV head: the first row's tokens, then the next's."""
    keys, values, valid = store.tail.keys, store.tail.values, store.tail.valid
    tokens = valid.sum()
    flat = [states.transpose(0, 1)[:, valid].flatten(0, 1) for states in (keys, values)]
    return Segment(
        keys=flat[0],
        values=flat[1],
        positions=store.tail.positions[valid].repeat(store.heads),
        lengths=tokens.expand(1, store.heads).clone(),
        codec=Plain(),
    )
