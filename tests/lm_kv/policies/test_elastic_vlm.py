import torch

from dcache import lm_kv
from tests.lm_kv.language_models import batch, llama, prefilled


def test_a_prompts_tokens_are_means_of_their_neighbours():
    model, inputs = llama(1), batch(pads=0)
    cache = prefilled(model, lm_kv.elastic_vlm(window=2), inputs, budget=8)
    full = prefilled(model, "keydiff", inputs, budget=1.0).layers[0].store.stored()
    segment = cache.layers[0].store.segments[0]
    anchors = segment.positions.view(2, 2, 6).long()
    assert torch.equal(anchors[:, 0], anchors[:, 1])
    for row in range(2):
        distance = (torch.arange(38)[:, None] - anchors[row, 0]).abs()
        # The first of equal minima is the older anchor.
        target = distance.argmin(1)
        mean = torch.stack([full.keys[row, 1, :38][target == anchor].mean(0) for anchor in range(6)])
        torch.testing.assert_close(segment.pad(segment.keys)[row, 1], mean, atol=1e-5, rtol=0)


def test_decoded_tokens_go_at_a_fixed_distance_from_the_end():
    model = llama(1)
    cache = lm_kv.KVCache(model, lm_kv.elastic_vlm(window=4, every=1), budget=14)
    ids = batch(pads=0)["input_ids"]
    with torch.no_grad():
        model(input_ids=ids, past_key_values=cache)
        anchors = cache.layers[0].store.segments[0].positions.clone()
        for step in range(6):
            model(input_ids=ids[:, step : step + 1], past_key_values=cache)
    stored = cache.layers[0].store
    # The ten anchors of the prompt's first 36 tokens stay; its newest four go when they leave the window.
    assert stored.tail.positions.tolist() == [[42, 43, 44, 45]] * 2
    kept = stored.segments[0].positions.view(4, 10)
    assert torch.equal(kept, anchors.view(4, 10))
