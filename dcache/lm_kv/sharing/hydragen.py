"""Hydragen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dcache.lm_kv.codecs.codec import Codec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import register

if TYPE_CHECKING:
    from dcache.lm_kv.cache import KVCache


def hydragen(prefix: KVCache, rows: int, codec: Codec | Policy | None = None) -> KVCache:
    """Store a prefix once and read it by all rows of a batch (Juravsky et al. 2024, arXiv 2402.05099).

    Attention over the prefix is one product for all rows' queries, that over a row's own tokens another; they
    are merged by their log-sum-exps (section 3.1 there). Exact: the rows give what they give with the prefix
    in each.

    Args:
        prefix: a cache of one row that has read it. What its policy evicted or stored in few bits stays so;
            it may go on by itself.
        rows: of the batch.
        codec: how the rows store what they write, such as `lm_kv.kivi(bits=4)`; None for plain.

    Returns:
        A cache for as many rows, which keeps all that they write. Its calls get the new tokens, and masks
        that begin with the prefix.

    Raises:
        DcacheError: the cache has several rows or none, moves its tokens or reads only some; rows is no whole
            number of at least 1.

    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from dcache import lm_kv
    >>> config = LlamaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    ...     num_key_value_heads=2, intermediate_size=32, eos_token_id=None)
    >>> model = LlamaForCausalLM(config).eval()
    >>> prefix = lm_kv.KVCache(model, "keydiff", budget=1.0)
    >>> shared = torch.arange(40)[None] + 5
    >>> with torch.no_grad():
    ...     _ = model(shared, past_key_values=prefix)
    >>> cache = lm_kv.hydragen(prefix, rows=2)
    >>> ids = torch.cat([shared.expand(2, -1), torch.tensor([[7, 8], [9, 3]])], 1)
    >>> model.generate(ids, past_key_values=cache, max_new_tokens=3, do_sample=False).shape
    torch.Size([2, 45])
    >>> cache.report().kept[0]
    (44.0, 44.0)
    """
    from dcache.lm_kv.sharing.begun import begin, blocks_of, check_text, length_of
    from dcache.lm_kv.storage.front import Blocks

    text = check_text(prefix, "hydragen")
    return begin(text, "hydragen", rows, lambda layer: Blocks(blocks_of(layer)), length_of(text), codec)


register("sharing", hydragen)
