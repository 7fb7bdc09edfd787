"""What all codecs, and all selection policies, promise alike."""

from typing import Any

import torch

import dcache
from dcache import lm_kv
from tests.lm_kv.language_models import batch, generate, llama


def check_eight_bits(name: str, **options: Any) -> None:
    """Eight bits give the tokens of full precision through the front door, and other logits.

    Args:
        name: of a policy that stores in few bits.
        **options: its options.
    """
    model, inputs = llama(), batch()
    ids, logits = generate(model, inputs, None)
    with dcache.enabled(model, name, bits=8, **options):
        own, near = generate(model, inputs, None)
        stats = dcache.stats(model)
    assert torch.equal(own, ids)
    assert 0 < (near - logits).abs().max() < 0.05 * logits.abs().max()
    assert stats.kept == (38.0, 51.0)
    assert stats.evictions == 0


def check_a_part_is_read(policy: lm_kv.Policy) -> None:
    """All tokens are kept, and at most the budget is read.

    Args:
        policy: one that selects, with a window of 4.
    """
    model = llama(2)
    cache = lm_kv.KVCache(model, policy, budget=12, dense_layers=(0,))
    generate(model, batch(pads=0), cache, 3)
    assert cache.stats().kept == (42.0, 42.0)
    # The first layer reads all 42; the second at most 12, and a page less where it does not fit.
    assert all((42 + 8) / 2 < read <= (42 + 12) / 2 for read in cache.stats().read)
