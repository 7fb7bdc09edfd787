from functools import partial

import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.codecs.codec import LayerFacts
from dcache.lm_kv.codecs.projected import ProjectedCodec
from dcache.lm_kv.model.rotary import find_rotary
from tests.lm_kv.codecs.common import encode_keys
from tests.lm_kv.language_models import llama

LENGTHS = torch.tensor([[40, 24]])


@pytest.fixture
def facts() -> LayerFacts:
    rotary = find_rotary(llama(1).model, [0])
    return LayerFacts(lambda states, positions, mode: rotary.turn(0, states, positions, mode))


def few_directions(rank: int) -> torch.Tensor:
    """Keys `[64, 16]` of two runs, each of so many directions."""
    torch.manual_seed(0)
    return torch.cat([torch.randn(n, rank) @ torch.randn(rank, 16) for n in (40, 24)])


def test_all_directions_are_exact_to_half_precision(facts):
    codec, tokens = ProjectedCodec(16, 16, 16, 0).bound(facts), torch.randn(64, 16)
    for encoded in (encode_keys(codec, tokens, LENGTHS), codec.encode_values(tokens, LENGTHS)):
        torch.testing.assert_close(codec.decode(encoded), tokens, atol=0.02, rtol=0)


def test_keys_have_few_directions_before_their_rotation_and_values_as_they_are(facts):
    codec, flat = ProjectedCodec(3, 3, 64, 0).bound(facts), few_directions(3)
    positions = torch.cat([torch.arange(40), torch.arange(24)])
    keys = facts.turn(flat[None, None], positions[None], "forward")[0, 0]
    torch.testing.assert_close(codec.decode(encode_keys(codec, keys, LENGTHS)), keys, atol=0.03, rtol=0)
    torch.testing.assert_close(codec.decode(codec.encode_values(flat, LENGTHS)), flat, atol=0.03, rtol=0)
    assert (codec.decode(codec.encode_values(keys, LENGTHS)) - keys).abs().max() > 1
    # 64 tokens by 3 numbers, and 3 directions of 16 for each run.
    encoded = encode_keys(codec, keys, LENGTHS)
    assert encoded.products.left.numel() == 64 * 3
    assert encoded.products.right.shape == (2, 3, 16)


def test_keys_far_apart_have_few_directions_too(facts):
    codec, flat = ProjectedCodec(3, 3, 64, 0).bound(facts), few_directions(3)
    torch.manual_seed(1)
    positions = torch.cat([torch.randperm(900)[:n].sort().values for n in (40, 24)])
    keys = facts.turn(flat[None, None], positions[None], "forward")[0, 0]
    decoded = codec.decode(codec.encode_keys(keys, LENGTHS, positions))
    torch.testing.assert_close(decoded, keys, atol=0.03, rtol=0)


def test_tokens_are_taken_joined_and_read_again(facts):
    codec, tokens = ProjectedCodec(5, 5, 8, 0).bound(facts), torch.randn(64, 16)
    for encode in (partial(encode_keys, codec), codec.encode_values):
        encoded = encode(tokens, LENGTHS)
        rows = torch.tensor([3, 17, 50])
        few = codec.take(encoded, rows, torch.tensor([[2, 1]]))
        torch.testing.assert_close(codec.decode(few), codec.decode(encoded)[rows])
        both = codec.join([encoded, few], torch.tensor([64, 1, 66]), torch.tensor([[2, 1]]))
        torch.testing.assert_close(codec.decode(both), codec.decode(encoded)[[3, 1, 50]])
        again = codec.restore(codec.tensors(both), tokens)
        torch.testing.assert_close(codec.decode(again), codec.decode(both), atol=0, rtol=0)


def test_fields_outside_their_range_are_refused():
    for options in ((0, 1, 1, 0), (1, 0, 1, 0), (1, 1, 0, 0), (1, 1, 1, -1)):
        with pytest.raises(DcacheError, match="must be"):
            ProjectedCodec(*options)
    with pytest.raises(DcacheError, match="rank must be"):
        lm_kv.cskv(rank=0)
