import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import batch, generate, llama, prefilled


@torch.no_grad()
def test_uses_and_pauses_equal_those_of_the_whole_attention_matrix():
    model, inputs = llama(1, attention="eager"), {name: tensor[1:] for name, tensor in batch().items()}
    policy = lm_kv.lazy_eviction(window=4, threshold=0.03, every=4)
    cache = lm_kv.KVCache(model, policy, budget=1.0)
    ids, _ = generate(model, inputs, cache, 9)
    # The last token was not read; the prompt's last four queries and eight decoded ones were looked at.
    text = torch.cat([inputs["input_ids"], ids], 1)[:, :48]
    weights = model(text, output_attentions=True, use_cache=False).attentions[0][0].unflatten(0, (2, 2))
    score = cache.layers[0].store.stored().score[0]
    for head in range(2):
        for token in range(48):
            last, longest = token, 0
            for query in range(max(36, token + 1), 48):
                if weights[head, :, query, token].max() > 0.03:
                    longest, last = max(longest, query - last), query
            assert score[head, token].tolist() == [last, longest]


def test_a_saved_cache_keeps_them(tmp_path):
    model = llama(1)
    cache = prefilled(model, lm_kv.lazy_eviction(window=4), batch(), budget=0.5)
    loaded = lm_kv.KVCache.load(cache.save(tmp_path / "cache.safetensors"), model)
    assert torch.equal(loaded.layers[0].store.stored().score, cache.layers[0].store.stored().score)


@pytest.mark.parametrize(
    ("options", "message"), [({"window": 0}, "window must be"), ({"threshold": 2.0}, "threshold must be")]
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(DcacheError, match=message):
        lm_kv.lazy_eviction(**options)
