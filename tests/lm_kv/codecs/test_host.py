import torch

from dcache.lm_kv.codecs.host import HostCodec, HostTokens
from dcache.lm_kv.storage.segment import Segment
from tests.lm_kv.codecs.common import encode_keys


def test_tokens_go_to_the_host_and_come_back_as_they_were():
    codec, keys, lengths = HostCodec(), torch.randn(5, 4), torch.tensor([[3, 2]])
    encoded = encode_keys(codec, keys, lengths)
    assert isinstance(encoded, HostTokens)
    assert torch.equal(codec.decode(encoded), keys)
    taken = codec.take(encoded, torch.tensor([4, 0]), torch.tensor([1, 1]))
    assert torch.equal(codec.decode(taken), keys[[4, 0]])
    joined = codec.join([encoded, taken], torch.arange(7).flip(0), torch.tensor([4, 3]))
    assert torch.equal(codec.decode(joined), torch.cat([keys, keys[[4, 0]]]).flip(0))
    restored = codec.restore(codec.tensors(encoded), keys)
    assert torch.equal(codec.decode(restored), keys)


def test_a_views_storage_is_left_behind():
    wide = torch.randn(5, 12)
    codec = HostCodec()
    encoded = codec.encode_values(wide[:, :4], torch.tensor([[5]]))
    assert encoded.states.untyped_storage().nbytes() == 5 * 4 * 4


def test_bytes_are_counted_by_tier():
    codec, keys, values = HostCodec(), torch.randn(5, 4), torch.randn(5, 8)
    lengths = torch.tensor([[3, 2]])
    parts = encode_keys(codec, keys, lengths), codec.encode_values(values, lengths)
    segment = Segment(*parts, torch.arange(5).int(), lengths, codec=codec)
    assert segment.bytes_in("host") == 5 * (4 + 8) * 4
    assert segment.bytes_in("disk") == 0
    assert Segment(keys, values, segment.positions, lengths).bytes_in("host") == 0
