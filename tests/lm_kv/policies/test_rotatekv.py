import torch

import dcache
from tests.lm_kv.language_models import batch, generate, llama


def test_eight_bits_give_the_tokens_of_full_precision_through_the_front_door():
    model, inputs = llama(), batch()
    ids, logits = generate(model, inputs, None)
    with dcache.enabled(model, "rotatekv", bits=8, group=8, residual=4):
        own, near = generate(model, inputs, None)
        stats = dcache.stats(model)
    assert torch.equal(own, ids)
    assert 0 < (near - logits).abs().max() < 0.05 * logits.abs().max()
    assert stats.kept == (38.0, 51.0)
    assert stats.evictions == 0
