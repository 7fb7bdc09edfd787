import torch

from dcache import lm_kv
from tests.lm_kv.language_models import batch, llama, prefilled

# Of six heads the two best may keep all 40 tokens of the second row beside eight in each of the others.
PATTERN = ((0.1, 0.9), (0.2, 0.3), (0.8, 0.4))


def test_the_best_heads_keep_everything_and_the_others_sinks_and_window():
    cache = prefilled(llama(), lm_kv.duo_attention(pattern=PATTERN, sinks=2, window=6), batch(), budget=19)
    kept = torch.stack([layer.store.kept()[1] for layer in cache.layers])
    # 6 * 19 tokens: 40 + 40 + 4 * 8, and the two that are left go to the third best head.
    assert kept.tolist() == [[8, 40], [8, 8], [40, 10]]
    stored = cache.layers[1].store.stored()
    assert stored.positions[1, 0][stored.valid[1, 0]].tolist() == [0, 1, *range(34, 40)]


def test_a_pattern_survives_a_file(tmp_path):
    model = llama()
    cache = prefilled(model, lm_kv.duo_attention(pattern=PATTERN, sinks=2, window=4), batch(), budget=0.5)
    loaded = lm_kv.KVCache.load(cache.save(tmp_path / "cache.safetensors"), model)
    assert loaded.policy == cache.policy
