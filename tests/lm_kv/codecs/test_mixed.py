from functools import partial

import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.kernels.lowbit import pack, unpack
from dcache.lm_kv.codecs.mixed import MixedCodec, fourier
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
VIDKV = lm_kv.vidkv(group=4, residual=2)


@pytest.fixture
def tokens():
    torch.manual_seed(0)
    return torch.randn(32, 16) * torch.rand(16).exp() ** 2 + torch.randn(16)


def published(group):
    """A group of keys `[n, d]` as the published code stores its narrow channels: signs and mean sizes."""
    merged = torch.view_as_real(torch.fft.fft(group)).flatten(1)
    signs = torch.where(merged >= 0, 1.0, -1.0) * merged.abs().mean(0)
    return torch.fft.ifft(torch.view_as_complex(signs.unflatten(1, (-1, 2)))).real


@pytest.mark.parametrize("channels", [16, 15])
def test_signs_of_coefficients_are_those_of_the_published_transform_in_half_the_bits(channels):
    keys = torch.randn(8, channels, generator=torch.Generator().manual_seed(0))
    codec = MixedCodec(1, 1.58, 8, 0)
    encoded = encode_keys(codec, keys, torch.tensor([[8]]))
    torch.testing.assert_close(codec.decode(encoded), published(keys), atol=2e-3, rtol=2e-3)
    assert encoded.wide is None
    assert encoded.narrow.codes.shape == (8, 2)


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_the_matrix_is_orthonormal(size):
    torch.testing.assert_close(fourier(size) @ fourier(size).T, torch.eye(size), atol=1e-6, rtol=0)


def test_the_widest_channels_of_each_run_have_two_bits(tokens):
    codec = MixedCodec(1.25, 1.58, 8, 0)
    encoded = encode_keys(codec, tokens, LENGTHS)
    decoded = codec.decode(encoded)
    for first, count in ((0, 17), (17, 8), (25, 7)):
        run = tokens[first : first + count]
        widest = (run.amax(0) - run.amin(0)).topk(4).indices.sort().values
        assert encoded.channels[encoded.index[first].long()][:4].tolist() == widest.tolist()
        few = unpack(pack(run[:, widest], 2, 8, torch.tensor([count])))
        assert torch.equal(decoded[first : first + count][:, widest], few)


def test_all_channels_in_two_bits_are_the_layout_of_kivi(tokens):
    codec = MixedCodec(2, 2, 8, 0)
    keys, values = encode_keys(codec, tokens, LENGTHS), codec.encode_values(tokens, LENGTHS)
    assert torch.equal(codec.decode(keys), unpack(pack(tokens, 2, 8, LENGTHS)))
    # Values too have a step for each channel.
    assert torch.equal(codec.decode(values), unpack(pack(tokens, 2, 8, LENGTHS)))


def test_every_byte_is_counted():
    tokens, lengths = torch.randn(2048, 64).bfloat16(), torch.tensor([[1024, 1024]])
    codec = MixedCodec(1.5, 1.58, 64, 0)
    keys, values = (
        sum(t.nbytes for t in codec.tensors(encode(tokens, lengths)).values())
        for encode in (partial(encode_keys, codec), codec.encode_values)
    )
    # 32 channels of 2 bits and 32 signs, a group; step and low of 32 groups, or a step; channels of two runs.
    assert keys == 2048 * (8 + 4 + 1) + 32 * (32 * 4 + 32 * 2) + 2 * 64 + 2 * 2 * 8
    # 64 numbers, five to a byte.
    assert values == 2048 * 13 + 32 * 64 * 2 + 2 * 8


def test_many_runs_have_longer_indices():
    tokens, lengths = torch.randn(300, 8), torch.ones(150, 2, dtype=torch.long)
    codec = MixedCodec(1.5, 1.58, 4, 0)
    encoded = encode_keys(codec, tokens, lengths)
    assert encoded.index.dtype == torch.int16
    torch.testing.assert_close(codec.decode(encoded), tokens, atol=2e-2, rtol=2e-2)
    rows = torch.arange(290, 300)
    few = codec.take(encoded, rows, torch.ones(5, 2, dtype=torch.long))
    assert few.index.dtype == torch.uint8
    assert torch.equal(codec.decode(few), codec.decode(encoded)[rows])
    both = codec.join([encoded, few], torch.arange(310), torch.ones(155, 2, dtype=torch.long))
    assert torch.equal(codec.decode(both)[300:], codec.decode(few))


@pytest.mark.parametrize("options", [{}, {"codec": VIDKV, "budget": 0.5}], ids=["vidkv", "keydiff"])
def test_a_padded_row_equals_its_single_run_while_encoding_and_evicting(options):
    model = llama().double()
    policy = lm_kv.keydiff(every=4) if options else VIDKV
    _, caches = check_a_padded_row_is_as_alone(model, batch(), policy, **options)
    stores = [layer.store for cache in caches for layer in cache.layers[:1]]
    assert all(isinstance(segment.codec, MixedCodec) for store in stores for segment in store.segments)


@torch.no_grad()
def test_what_is_stored_never_changes_while_others_are_appended():
    model, inputs = llama(1), batch(pads=0)
    cache = prefilled(model, VIDKV, inputs)
    segment = cache.layers[0].store.segments[0]
    before = [part.split(segment.sizes) for part in segment.decoded()]
    for step in range(12):
        new = {"input_ids": torch.tensor([[5 + step], [6]]), "attention_mask": torch.ones(2, 41 + step)}
        model(**new, past_key_values=cache)
    (segment,) = cache.layers[0].store.segments
    for part, old in zip(segment.decoded(), before, strict=True):
        for now, run in zip(part.split(segment.sizes), old, strict=True):
            torch.testing.assert_close(now[: len(run)], run, atol=1e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("key_bits", [1, 1.5, pytest.param(2, marks=pytest.mark.slow)])
def test_a_forked_a_loaded_and_a_reordered_cache_go_on_alike(key_bits, tmp_path):
    model, inputs = llama(), batch()
    codec = lm_kv.vidkv(key_bits=key_bits, group=4, residual=2)
    for policy, more in ((codec, {}), (lm_kv.keydiff(), {"codec": codec, "budget": 0.5})):
        cache = prefilled(model, policy, inputs, **more)
        others = copies(cache, model, tmp_path / "cache")
        assert others[1].policy.codec == cache.policy.codec
        check_they_go_on_alike(model, [cache, *others], steps=6, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"key_bits": 0.5}, "key_bits must be a number from 1 to 2, got 0.5"),
        ({"key_bits": "1"}, "key_bits must be a number from 1 to 2, got '1'"),
        ({"value_bits": 1.6}, r"value_bits must be 1\.58 or 2, got 1\.6"),
        ({"group": 0}, "group"),
    ],
    ids=["few", "text", "stored", "group"],
)
def test_options_outside_their_range_are_refused(options, reason):
    with pytest.raises(DcacheError, match=reason):
        lm_kv.vidkv(**options)
