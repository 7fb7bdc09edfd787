import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import alone, batch, llama, prefilled


@torch.no_grad()
def test_the_score_is_the_attention_of_the_tokens_that_the_draft_wrote():
    model, inputs = llama(1, attention="eager"), {name: tensor[1:] for name, tensor in batch().items()}
    written = torch.tensor([11, 12, 13])
    policy = lm_kv.speckv(draft=lambda ids, tokens: written, tokens=3, window=0)
    cache = prefilled(model, policy, inputs, budget=10)
    text = torch.cat([inputs["input_ids"], written[None]], 1)
    (weights,) = model(text, output_attentions=True, use_cache=False).attentions
    received = weights[0].unflatten(0, (2, 2))[:, :, 40:, :40].amax((1, 2))
    for head, run in enumerate(cache.layers[0].store.segments[0].positions.split(10)):
        assert set(run.tolist()) == set(received[head].topk(10).indices.tolist())


def test_a_draft_model_reads_rows_as_they_are_alone():
    model, draft, inputs = llama(2), llama(1), batch()
    both, single = (
        prefilled(model, lm_kv.speckv(draft=draft, tokens=4, window=2), one, budget=10)
        for one in (inputs, alone(inputs))
    )
    for layer in range(2):
        first, second = (cache.layers[layer].store.segments[0] for cache in (both, single))
        assert torch.equal(first.positions[:16], second.positions)


def test_what_the_draft_wrote_is_not_stored_and_a_function_not_saved(tmp_path):
    policy = lm_kv.speckv(draft=lambda ids, tokens: ids[:2], window=2)
    cache = prefilled(llama(1), policy, batch(), budget=0.4)
    assert cache.stats().seen == (27, 40)
    assert cache.get_seq_length() == 40
    with pytest.raises(DcacheError, match="a file cannot have speckv's draft"):
        cache.save(tmp_path / "cache.safetensors")
    with pytest.raises(DcacheError, match="tokens must be"):
        lm_kv.speckv(tokens=0)
