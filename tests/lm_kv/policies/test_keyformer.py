import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.scoring.noisy import NoisySums
from tests.lm_kv.language_models import batch, generate, llama, prefilled


def test_a_prompts_mass_is_its_queries_and_grows_by_one_a_token():
    model, inputs = llama(2), batch(pads=0)
    cache = prefilled(model, lm_kv.keyformer(history=64, every=0), inputs, budget=1.0)
    cache.compress()
    for layer in cache.layers:
        sums = layer.store.stored().score[..., 0].sum(-1)
        torch.testing.assert_close(sums, torch.full((2, 2), 40.0), atol=1e-3, rtol=0)


@torch.no_grad()
def test_scores_are_those_of_the_whole_matrix_with_noise_and_a_growing_temperature(monkeypatch):
    heads, columns = torch.arange(4.0).double(), torch.arange(48.0).double()
    noise = 2 * torch.sin(7 * heads[:, None, None] + 3 * columns[:, None] + 5 * columns)

    def of(self, stored, query, position):
        chosen = noise[:, position[0]][..., stored.positions[0, 0]]
        return chosen.unflatten(0, (2, 2))[None]

    monkeypatch.setattr(NoisySums, "_noise", of)
    model, inputs = llama(1, attention="eager").double(), {n: t[1:] for n, t in batch().items()}
    cache = lm_kv.KVCache(model, lm_kv.keyformer(history=64, growth=0.5, every=4), budget=1.0)
    ids, _ = generate(model, inputs, cache, 9)
    text = torch.cat([inputs["input_ids"], ids], 1)[:, :48]
    logits = model(text, output_attentions=True, use_cache=False).attentions[0][0].double().log()
    # The prompt's 40 queries have the temperature 1, the first decoded one 1.5.
    temperature = 1 + 0.5 * (columns - 39).clamp_min(0)
    weights = ((logits + noise) / temperature[:, None]).softmax(-1)
    expected = weights.sum(1).unflatten(0, (2, 2)).mean(1)
    score = cache.layers[0].store.stored().score[0, :, :, 0]
    torch.testing.assert_close(score.double(), expected, atol=1e-4, rtol=1e-4)


def test_recent_tokens_are_three_tenths_of_the_budget():
    cache = prefilled(llama(2), lm_kv.keyformer(), batch(), budget=10)
    assert cache.layers[0].store.tail.positions.tolist() == [[24, 25, 26], [37, 38, 39]]


def test_the_seed_decides_where_noise_does():
    model, inputs = llama(2), batch()
    runs = [generate(model, inputs, lm_kv.KVCache(model, lm_kv.keyformer(seed=s, every=2), budget=8))[1]
            for s in (0, 0, 1)]  # fmt: skip
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize(
    ("options", "message"), [({"history": 0}, "history must be"), ({"growth": -1.0}, "growth must be")]
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(DcacheError, match=message):
        lm_kv.keyformer(**options)
