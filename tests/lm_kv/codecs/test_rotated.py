import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.kernels.lowbit import pack, unpack
from dcache.lm_kv.codecs.rotated import RotatedCodec, hadamard, turned
from tests.lm_kv.codecs.common import encode_keys
from tests.lm_kv.language_models import batch, check_a_padded_row_is_as_alone, llama, prefilled

ROTATED = lm_kv.rotatekv(bits=4, group=8, residual=2)


@pytest.mark.parametrize("channels", [16, 80, 7])
def test_turned_twice_is_what_it_was_and_lengths_stay(channels):
    x = torch.randn(5, channels)
    torch.testing.assert_close(turned(turned(x)), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(turned(x).norm(dim=1), x.norm(dim=1))


def test_the_matrix_is_orthonormal():
    torch.testing.assert_close(hadamard(16) @ hadamard(16), torch.eye(16), atol=1e-6, rtol=0)


def test_a_channel_that_stands_out_costs_the_others_less():
    x = torch.randn(64, 32)
    x[:, 5] *= 30
    codec, lengths = RotatedCodec(4, 32, 0), torch.tensor([[64]])
    off = (codec.decode(encode_keys(codec, x, lengths)) - x).square().mean()
    assert off < 0.5 * (unpack(pack(x, 4, 32)) - x).square().mean()


def test_the_error_of_a_token_is_at_most_half_a_step_of_every_turned_channel():
    x = torch.randn(9, 32)
    codec = RotatedCodec(3, 16, 0)
    encoded = codec.encode_values(x, torch.tensor([[9]]))
    off = (codec.decode(encoded) - x).norm(dim=1)
    assert bool((off <= (encoded.step.float().square().sum(1) * 16 / 4).sqrt() + 1e-5).all())


@pytest.mark.parametrize("more", [{}, {"every": 4}])
def test_a_padded_row_equals_its_single_run_alone_and_under_an_eviction(more):
    model, inputs = llama().double(), batch(length=60)
    policy = lm_kv.keydiff(**more) if more else ROTATED
    options = {"codec": ROTATED, "budget": 0.5} if more else {}
    _, caches = check_a_padded_row_is_as_alone(model, inputs, policy, **options)
    assert isinstance(caches[0].layers[0].store.segments[0].codec, RotatedCodec)


@torch.no_grad()
def test_a_loaded_cache_has_the_same_levels(tmp_path):
    model = llama(1)
    cache = prefilled(model, ROTATED, batch())
    loaded = lm_kv.KVCache.load(cache.save(tmp_path / "cache"), model)
    keys = [c.layers[0].store.segments[0].decoded()[0] for c in (cache, loaded)]
    assert torch.equal(*keys)


def test_bits_that_there_are_not_are_refused():
    with pytest.raises(DcacheError, match="bits must be one of 2, 3, 4, 8, got 1"):
        lm_kv.rotatekv(bits=1)
