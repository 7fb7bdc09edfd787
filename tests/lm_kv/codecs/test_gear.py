from functools import partial

import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.kernels.lowbit import pack, unpack
from dcache.lm_kv.codecs.gear import GearCodec
from tests.lm_kv.codecs.common import encode_keys
from tests.lm_kv.language_models import (
    batch,
    check_a_padded_row_is_as_alone,
    check_they_go_on_alike,
    copies,
    llama,
    prefilled,
)

LENGTHS = torch.tensor([[17, 8], [0, 7]])
GEAR = lm_kv.gear(bits=2, group=4, residual=2, rank=1, outliers=0.5)
EVICTING = {
    "gear": GEAR,
    "keydiff": lm_kv.keydiff(every=4),
    "snapkv heads": lm_kv.snapkv(window=4, pool=1, allocation="heads", every=4),
    "kvzip": lm_kv.kvzip(every=6),
    "razor_attention": lm_kv.razor_attention(sinks=2, every=4),
    "quest": lm_kv.quest(page=4, window=4, every=4),
}


def both_ways(codec, tokens):
    return [
        (encoded, codec.decode(encoded))
        for encoded in (encode_keys(codec, tokens, LENGTHS), codec.encode_values(tokens, LENGTHS))
    ]


@pytest.fixture
def tokens():
    torch.manual_seed(0)
    return torch.randn(32, 16) * torch.rand(16).exp() ** 2


def test_without_corrections_it_is_the_layout_of_kivi(tokens):
    (_, keys), (_, values) = both_ways(GearCodec(2, 8, 0, 0, 0.0), tokens)
    assert torch.equal(keys, unpack(pack(tokens, 2, 8, LENGTHS)))
    assert torch.equal(values, unpack(pack(tokens, 2, 8)))


def test_an_error_is_at_most_half_a_step_and_outliers_are_exact(tokens):
    for encoded, decoded in both_ways(GearCodec(2, 8, 0, 0, 0.25), tokens):
        off = (decoded - tokens).abs()
        step = encoded.codes.step.float()
        if encoded.codes.lengths is None:
            steps = step.repeat_interleave(8, 1)
        else:
            steps = step[encoded.codes.groups()]
        assert bool((off <= steps / 2 + 1e-6).all())
        exact = encoded.outliers.put(torch.zeros_like(tokens)) != 0
        assert torch.equal(decoded[exact], tokens[exact])
    # Per channel, groups of 8, 8, 1, 8 and 7 tokens have one of each end, a single token none.
    keys = encode_keys(GearCodec(2, 8, 0, 0, 0.25), tokens, LENGTHS)
    assert int(keys.outliers.counts.sum()) == 4 * 2 * 16
    assert int(keys.outliers.counts[16]) == 0


def test_every_channels_extremes_are_outliers(tokens):
    keys = encode_keys(GearCodec(4, 8, 0, 0, 0.02), tokens, LENGTHS)
    mask = keys.outliers.put(torch.zeros_like(tokens)) != 0
    group = tokens[:8]
    assert torch.equal(mask[:8].nonzero()[:, 1].bincount(), torch.full((16,), 2))
    assert bool(mask[group.argmax(0), torch.arange(16)].all())
    assert bool(mask[group.argmin(0), torch.arange(16)].all())


def test_full_rank_leaves_the_rounding_of_float16(tokens):
    for encoded, decoded in both_ways(GearCodec(2, 8, 0, 16, 0.25), tokens):
        assert (decoded - tokens).abs().max() < encoded.codes.step.max() * 2**-8


def test_each_correction_takes_error_away(tokens):
    def off(rank, outliers):
        return [
            float((decoded - tokens).square().sum())
            for _, decoded in both_ways(GearCodec(2, 8, 0, rank, outliers), tokens)
        ]

    plain, sparse, both = off(0, 0.0), off(0, 0.02), off(2, 0.02)
    for side in (0, 1):
        assert both[side] < 0.8 * sparse[side] < 0.8 * 0.8 * plain[side]


@pytest.mark.parametrize("name", sorted(EVICTING))
def test_a_padded_row_equals_its_single_run_while_encoding_and_evicting(name):
    # In float64: a sum in another order may move a float32 number across the middle between two levels.
    model, inputs = llama().double(), batch()
    options = {} if name == "gear" else {"codec": GEAR, "budget": 0.5}
    _, caches = check_a_padded_row_is_as_alone(model, inputs, EVICTING[name], **options)
    stores = [layer.store for cache in caches for layer in cache.layers[:1]]
    assert all(isinstance(segment.codec, GearCodec) for store in stores for segment in store.segments)
    assert stores[0].kept()[0].tolist() == stores[1].kept()[0].tolist()


@torch.no_grad()
def test_what_is_stored_never_changes_while_others_are_appended():
    model, inputs = llama(1), batch(pads=0)
    cache = prefilled(model, GEAR, inputs)
    segment = cache.layers[0].store.segments[0]
    before = [part.split(segment.sizes) for part in segment.decoded()]
    for step in range(20):
        new = {"input_ids": torch.tensor([[5 + step], [6]]), "attention_mask": torch.ones(2, 41 + step)}
        model(**new, past_key_values=cache)
    (segment,) = cache.layers[0].store.segments
    assert segment.lengths.tolist() == [[56, 56]] * 2
    assert segment.keys.rest.index is segment.values.rest.index is None
    for part, old in zip(segment.decoded(), before, strict=True):
        for now, run in zip(part.split(segment.sizes), old, strict=True):
            assert torch.equal(now[: len(run)], run)


@torch.no_grad()
def test_a_forked_a_loaded_and_a_reordered_cache_go_on_alike(tmp_path):
    model, inputs = llama(), batch()
    for policy, more in ((GEAR, {}), (lm_kv.keydiff(), {"codec": GEAR, "budget": 0.5})):
        cache = prefilled(model, policy, inputs, **more)
        others = copies(cache, model, tmp_path / "cache")
        assert others[1].policy.codec == cache.policy.codec
        check_they_go_on_alike(model, [cache, *others], steps=6, atol=0)


def test_every_byte_is_counted():
    tokens, lengths = torch.randn(2048, 64).bfloat16(), torch.tensor([[1024, 1024]])
    codec = GearCodec(4, 64, 0, 2, 0.02)
    keys, values = (
        sum(t.nbytes for t in codec.tensors(encode(tokens, lengths)).values())
        for encode in (partial(encode_keys, codec), codec.encode_values)
    )
    # Codes, then a token's two numbers and its count of outliers.
    each = 2048 * (32 + 2 * 2 + 1)
    # 32 groups: their directions, step and low of 64 channels, two outliers of each; the lengths twice.
    assert keys == each + 32 * (2 * 64 * 2 + 64 * 4 + 64 * 2 * 3) + 2 * 2 * 8
    assert values == each + 32 * (2 * 64 * 2) + 2048 * (4 + 2 * 3) + 2 * 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 5}, "bits must be one of 2, 3, 4, 8, got 5"),
        ({"rank": -1}, "rank must be a whole number of at least 0"),
        ({"outliers": 1.0}, "outliers must be a number from 0 to below 1, got 1.0"),
    ],
)
def test_what_is_outside_its_range_is_refused(options, message):
    with pytest.raises(DcacheError, match=message):
        lm_kv.gear(**options)
