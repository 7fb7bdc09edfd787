from dcache import lm_kv
from tests.lm_kv.language_models import batch, family, llama, prefilled


def test_the_first_and_the_newest_tokens_are_kept():
    cache = prefilled(llama(2), lm_kv.streaming_llm(sinks=2), batch(), budget=8)
    for layer in cache.layers:
        runs = layer.store.segments[0].positions.split(8)
        assert [run.tolist() for run in runs] == [[0, 1, *range(21, 27)]] * 2 + [[0, 1, *range(34, 40)]] * 2


def test_kept_tokens_are_shifted_unless_they_are_to_stay():
    assert lm_kv.streaming_llm().positions == "shifted"
    assert lm_kv.streaming_llm(shift=False).positions == "original"
    # Learned positions cannot be shifted, but tokens can be evicted.
    cache = prefilled(family("gpt2"), lm_kv.streaming_llm(sinks=2, shift=False), batch(), budget=8)
    assert cache.stats().kept == (8.0, 8.0)
