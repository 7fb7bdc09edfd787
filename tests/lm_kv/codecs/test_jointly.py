from functools import partial

import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.codecs.jointly import rows_taken
from dcache.lm_kv.codecs.shared_basis import SharedBasisCodec
from tests.lm_kv.codecs.common import encode_keys


def test_rows_are_found_by_their_first_tokens():
    # Rows of 3, 0 and 2 tokens in two heads: tokens 0 to 5 and 6 to 9.
    counts, rows = torch.tensor([3, 0, 2]), torch.tensor([0, 1, 2])
    index = torch.tensor([6, 7, 8, 9, 0, 1, 2, 3, 4, 5])
    lengths = torch.tensor([[2, 2], [0, 0], [3, 3]])
    assert rows_taken(counts, rows, index, lengths).tolist() == [2, 1, 0]
    # Taken of what was taken before: the first row is row 2 now.
    assert rows_taken(counts, torch.tensor([2, 0]), torch.arange(4), torch.tensor([[2, 2]])).tolist() == [2]
    with pytest.raises(TypeError, match="whole rows"):
        rows_taken(counts, rows, torch.arange(4), torch.tensor([[2, 2]]))


def test_one_layer_alone_is_refused():
    codec = SharedBasisCodec(2, 4, 4, 0)
    for encode in (partial(encode_keys, codec), codec.encode_values):
        with pytest.raises(DcacheError, match=r"xkv encodes several layers or heads together.*budget=1.0"):
            encode(torch.ones(2, 4), torch.tensor([[2]]))
    with pytest.raises(TypeError, match="not joined"):
        codec.join([], torch.arange(0), torch.tensor([[0]]))
