import torch

from dcache.lm_kv.codecs.codec import Plain
from dcache.lm_kv.codecs.low_bit import LowBitCodec
from dcache.lm_kv.storage.segment import Segment
from tests.lm_kv.codecs.common import encode_keys


def segment(lengths: list[list[int]]) -> Segment:
    """Keys are 0, 1, 2, ... over all runs, one channel; values are ten times that."""
    count = sum(map(sum, lengths))
    keys = torch.arange(float(count)).view(count, 1)
    positions = torch.arange(count, dtype=torch.int32)
    return Segment(keys, 10 * keys, positions, torch.tensor(lengths), score=torch.arange(float(count)))


def test_ragged_runs_are_padded_and_flattened_back():
    ragged = segment([[2, 1], [0, 3]])
    padded = ragged.pad(ragged.positions, -1)
    assert padded.tolist() == [[[0, 1, -1], [2, -1, -1]], [[-1, -1, -1], [3, 4, 5]]]
    assert torch.equal(ragged.flatten(padded), ragged.positions)
    assert ragged.valid.sum() == 6
    assert not ragged.uniform


def test_equal_runs_are_a_view():
    uniform = segment([[2, 2], [2, 2]])
    assert uniform.uniform
    assert uniform.pad(uniform.keys).data_ptr() == uniform.keys.data_ptr()


def test_rows_are_reordered_and_repeated_with_all_they_have():
    rows = segment([[2, 1], [0, 3]]).select_rows(torch.tensor([1, 0, 1]))
    assert rows.lengths.tolist() == [[0, 3], [2, 1], [0, 3]]
    assert rows.keys[:, 0].tolist() == [3, 4, 5, 0, 1, 2, 3, 4, 5]
    assert rows.positions.tolist() == [3, 4, 5, 0, 1, 2, 3, 4, 5]
    assert rows.score.tolist() == [3, 4, 5, 0, 1, 2, 3, 4, 5]


def test_another_score_leaves_the_segment_as_it_was():
    first = segment([[1, 1]])
    second = first.with_score(torch.ones(2))
    assert first.score.tolist() == [0, 1]
    assert second.score.tolist() == [1, 1]
    assert second.keys is first.keys


def test_the_storages_are_all_tensors_and_their_bytes_are_exact():
    # 3 tokens: keys and values of one float32 channel, int32 positions, a float32 score, 2 int64 lengths.
    held = segment([[2, 1]]).storages()
    assert sum(tensor.untyped_storage().nbytes() for tensor in held) == 3 * (4 + 4 + 4 + 4) + 2 * 8


def test_some_tokens_are_read_by_index_whatever_the_codec():
    codec = LowBitCodec(8, 2, 0)
    keys, lengths = torch.randn(6, 4), torch.tensor([[4, 2]])
    places = torch.tensor([[5, 0], [3, 3]])
    for one in (Plain(), codec):
        encoded = encode_keys(one, keys, lengths), one.encode_values(2 * keys, lengths)
        part = Segment(*encoded, torch.arange(6).int(), lengths, codec=one)
        for some, whole in zip(part.tokens(places), part.decoded(), strict=True):
            assert torch.equal(some, whole[places])
        assert part.bytes_in("host") == 0
