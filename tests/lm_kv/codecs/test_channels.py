import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.codecs.channels import ChannelCodec
from dcache.lm_kv.codecs.codec import LayerFacts
from tests.lm_kv.codecs.common import encode_keys

LENGTHS = torch.tensor([[3, 2]])
KEYS = torch.tensor([[4.0, 1, 0, 2], [4, 1, 0, 2], [4, 1, 0, 2], [1, 1, 5, 0], [1, 2, 5, 0]])


def test_the_weakest_channels_of_each_run_are_gone_and_the_others_as_they_came():
    codec = ChannelCodec(0.5, 32, 0)
    encoded = encode_keys(codec, KEYS, LENGTHS)
    # Sums of squares 48, 3, 0, 12 in the first run and 2, 5, 50, 0 in the second.
    assert encoded.channels.tolist() == [[0, 3], [1, 2]]
    assert codec.decode(encoded).tolist() == [[4, 0, 0, 2]] * 3 + [[0, 1, 5, 0], [0, 2, 5, 0]]
    assert encoded.numbers.shape == (5, 2)


def test_queries_weigh_channels_and_pads_are_none():
    query = torch.ones(1, 4, 2, 4)
    # Both heads of the first group like channel 1 forty times as much; the pad would like channel 2.
    query[:, :2, 1, 1], query[:, :2, 0, 2] = 40.0, 1e6
    state = {"query": query, "valid": torch.tensor([[False, True]])}
    codec = ChannelCodec(0.75, 32, 0).bound(LayerFacts(state=state))
    # 48 of channel 0 against 3 * 1600 of channel 1.
    assert encode_keys(codec, KEYS, LENGTHS).channels.tolist() == [[1], [2]]


def test_no_channel_dropped_is_exact_and_values_always_are():
    codec = ChannelCodec(0.0, 32, 0)
    assert torch.equal(codec.decode(encode_keys(codec, KEYS, LENGTHS)), KEYS)
    assert torch.equal(codec.decode(codec.encode_values(KEYS, LENGTHS)), KEYS)


def test_tokens_are_taken_and_joined_with_their_channels():
    codec = ChannelCodec(0.5, 32, 0)
    encoded = encode_keys(codec, KEYS, LENGTHS)
    rows = torch.tensor([4, 0])
    taken = codec.take(encoded, rows, torch.tensor([1, 1]))
    assert torch.equal(codec.decode(taken), codec.decode(encoded)[rows])
    few = codec.take(encoded, torch.tensor([4]), torch.tensor([0, 1]))
    assert few.channels.tolist() == [[1, 2]]
    joined = codec.join([encoded, few], torch.tensor([5, 0, 3]), torch.tensor([2, 1]))
    assert torch.equal(codec.decode(joined), codec.decode(encoded)[[4, 0, 3]])
    again = codec.restore(codec.tensors(joined), KEYS)
    assert torch.equal(codec.decode(again), codec.decode(joined))


@pytest.mark.parametrize(
    ("options", "message"), [((1.0, 32, 0), "ratio"), ((0.5, 0, 0), "block"), ((0.5, 32, -1), "residual")]
)
def test_fields_outside_their_range_are_refused(options, message):
    with pytest.raises(DcacheError, match=f"{message} must be"):
        ChannelCodec(*options)
