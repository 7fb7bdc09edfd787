import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import batch, generate, llama, prefill, prefilled


def marked(pads: int = 13) -> torch.Tensor:
    """Columns 15 to 34 of both rows."""
    images = torch.zeros(2, 40, dtype=torch.bool)
    images[:, 15:35] = True
    return images


def test_text_is_kept_before_images_in_padded_rows():
    model, inputs = llama(2), batch()
    cache = lm_kv.KVCache(model, lm_kv.look_m(window=2), budget=18)
    cache.mark(marked())
    prefill(model, inputs, cache)
    for layer in cache.layers:
        runs = layer.store.segments[0].positions.split(layer.store.segments[0].sizes)
        # Of 27 tokens 2 to 21 are images, of 40 15 to 34; the newest two stay in the tail.
        for run in runs[:2]:
            assert {0, 1, *range(22, 25)} <= set(run.tolist())
        for run in runs[2:]:
            assert set(run.tolist()) <= {*range(15), *range(35, 38)}


def test_marks_of_chunks_follow_each_other():
    model, inputs = llama(2), batch()
    caches = [lm_kv.KVCache(model, lm_kv.look_m(window=2), budget=18) for _ in range(2)]
    for cache, chunks in zip(caches, ({}, {"prefill_chunk_size": 7}), strict=True):
        cache.mark(marked())
        with cache.hold():
            generate(model, inputs, cache, 1, **chunks)
    first, second = (cache.layers[1].state["marked"] for cache in caches)
    assert torch.equal(first, second)
    assert first[1, :40].tolist() == marked()[1].tolist()
    assert first[0, :27].tolist() == marked()[0, 13:].tolist()


def test_without_marks_all_is_text_and_the_tokens_are_h2os():
    model, inputs = llama(1), batch()
    own, plain = (prefilled(model, policy, inputs, budget=10) for policy in ("look_m", "h2o"))
    assert torch.equal(own.layers[0].store.segments[0].positions, plain.layers[0].store.segments[0].positions)


def test_what_cannot_be_marks_is_refused():
    model, inputs = llama(1), batch()
    cache = lm_kv.KVCache(model, "look_m", budget=10)
    with pytest.raises(DcacheError, match=r"images must be bool \[rows, columns\], got torch.int64"):
        cache.mark(inputs["input_ids"])
    cache.mark(marked()[:1])
    with pytest.raises(DcacheError, match="1 rows were marked, the call has 2"):
        prefill(model, inputs, cache)
    with pytest.raises(DcacheError, match="merge must be one of average, pivot, weighted, exponential"):
        lm_kv.look_m(merge="mean")


@pytest.mark.parametrize("name", ["snapkv", "elastic_vlm"])
def test_marks_are_refused_where_nothing_reads_them(name):
    cache = lm_kv.KVCache(llama(1), name, budget=10)
    with pytest.raises(DcacheError, match=f"{name} does not tell images from text.*choose look_m"):
        cache.mark(marked())
