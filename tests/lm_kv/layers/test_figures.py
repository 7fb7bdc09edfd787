import pytest

from dcache import lm_kv
from tests.lm_kv.language_models import batch, family, llama, prefilled

# Keys and values of 2 heads of 16 channels in float32.
TOKEN = 2 * 2 * 16 * 4


def measured(cache):
    own = [t for i in cache.compressed_layers for t in cache.layers[i].storages()]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in own}.values())


@pytest.mark.parametrize("name", ["keydiff", "h2o", "tova"])
def test_bytes_are_measured_and_the_full_cache_is_arithmetic(name):
    cache = prefilled(llama(), name, batch(), budget=0.4)
    stats = cache.stats()
    assert stats.bytes_held == cache.nbytes == measured(cache)
    assert stats.bytes_full == 3 * (27 + 40) * TOKEN
    assert stats.seen == (27, 40)
    assert stats.kept == (10.0, 16.0)
    assert stats.evictions == 1


def test_a_quarter_of_the_tokens_is_about_a_quarter_of_the_bytes():
    inputs = batch(pads=0, length=1024)
    stats = prefilled(llama(), "keydiff", inputs, budget=0.25).stats()
    # Keys and values of a quarter, and an int32 position for each: 4 of 64 * 2 bytes a head.
    assert stats.bytes_held / stats.bytes_full == pytest.approx(0.25 * (1 + 4 / 128), abs=1e-3)
    assert stats.bytes_held / stats.bytes_full <= 0.27


# Newest tokens that stay in the tail, and bytes of a row's statistics at a layer of 4 query and 2 KV heads.
BESIDE = {
    "keydiff": (0, 0),
    # Each kept token's running sum.
    "h2o": (128, 2 * 256 * 4),
    # Queries, an int64 position and a validity for each.
    "snapkv": (64, 64 * (4 * 16 * 4 + 8 + 1)),
    "tova": (1, 4 * 16 * 4 + 8 + 1),
    # A count; sums and one triangle of the sums of products for each head.
    "expected_attention": (0, 4 + 4 * (16 + 16 * 17 // 2) * 4),
}


@pytest.mark.parametrize("name", sorted(BESIDE))
def test_what_is_held_beside_keys_and_values_is_arithmetic(name):
    window, statistics = BESIDE[name]
    cache = prefilled(llama(), name, batch(pads=0, length=1024), budget=0.25)
    # Packed tokens have an int32 position in each head, those of the tail one and a validity for all heads.
    positions = 2 * (2 * (256 - window) * 4 + window * 5)
    lengths = 2 * 2 * 8
    assert [layer.bytes_held for layer in cache.layers] == [
        2 * 256 * TOKEN + positions + lengths + 2 * statistics
    ] * 3


def test_the_peak_is_one_layers_prompt_or_all_layers_where_they_wait_for_each_other():
    inputs = batch(pads=0, length=512)
    layerwise = prefilled(llama(), "keydiff", inputs, budget=0.25).stats()
    waiting = prefilled(llama(), lm_kv.keydiff(allocation="global"), inputs, budget=0.25).stats()
    # The last layer's prompt beside a quarter of the two before.
    assert layerwise.peak_bytes / layerwise.bytes_full == pytest.approx((1 + 2 / 4) / 3, rel=0.05)
    assert waiting.peak_bytes / waiting.bytes_full == pytest.approx(1.0, rel=0.05)


def test_the_librarys_layers_are_counted():
    cache = prefilled(family("gemma2"), "keydiff", batch(), budget=0.4)
    # Sliding layers hold 15 columns of both rows.
    assert cache.nbytes - measured(cache) >= 2 * 2 * 15 * TOKEN
