import torch

from dcache import lm_kv
from dcache.lm_kv.storage.reducers import Compensate
from tests.lm_kv.language_models import batch, generate, llama, prefilled

PATTERN = ((0.1, 0.9), (0.2, 0.3), (0.8, 0.4))


def test_slots_count_in_the_budget_and_stand_for_all_that_was_lost():
    model, inputs = llama(), batch(pads=0)
    policy = lm_kv.razor_attention(pattern=PATTERN, sinks=2, window=4, every=4)
    assert policy.reducer == Compensate()
    cache = prefilled(model, policy, inputs, budget=18)
    for step in range(2):
        counts = torch.stack([layer.store.kept() for layer in cache.layers])
        # Heads that keep all have no slot, for which a token was left free in every head.
        assert (counts.sum((0, 2)) <= 6 * 18).all()
        assert (counts.sum((0, 2)) >= 6 * 17).all()
        for layer in cache.layers:
            stored = layer.store.stored()
            mass = stored.valid.float() if stored.bias is None else stored.bias.exp() * stored.valid
            # Every token that was seen is there, by itself or in its head's slot.
            torch.testing.assert_close(mass.sum(-1), layer.store.seen[:, None].expand(-1, 2).float())
        if step == 0:
            new = torch.cat([inputs["input_ids"], torch.full((2, 1), 5)], 1)
            generate(model, {"input_ids": new, "attention_mask": torch.ones_like(new)}, cache, 9)
            cache.compress()
