import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.scoring.chunks import SkewedChunks
from dcache.lm_kv.scoring.selectors import PageBounds

VALID = torch.ones(2, 1, 8, dtype=torch.bool)
# Of 8 tokens, 2 and 6 get next to nothing; of an even share of 1/8 a tenth is .0125.
RECEIVED = torch.tensor([[[0.2, 0.2, 0.2, 0.1, 0.1, 0.2, 0.0, 0.0]], [[0.5, 0.5] + [0.0] * 6]])


def test_a_rows_chunks_are_the_larger_the_more_tokens_are_in_the_desert():
    assert SkewedChunks(2, sizes=4).pages(VALID, RECEIVED).tolist() == [2, 8]
    assert SkewedChunks(2, sizes=2).pages(VALID, RECEIVED).tolist() == [1, 2]
    assert SkewedChunks(2, sizes=1).pages(VALID, RECEIVED).tolist() == [1, 1]
    # Slots without a token are no desert.
    valid = VALID.clone()
    valid[:, :, 6:] = False
    assert SkewedChunks(2, sizes=4).pages(valid, RECEIVED).tolist() == [1, 4]


def test_a_pages_bound_is_its_chunks():
    torch.manual_seed(0)
    keys, query = torch.randn(2, 1, 8, 4), torch.randn(2, 1, 3, 4)
    selector = SkewedChunks(2, sizes=3)
    index = selector.index(keys, VALID, {"received": RECEIVED})
    bounds = selector.products(query, index)
    assert bounds.shape == (2, 1, 3, 4)
    for row, tokens in enumerate((2, 8)):
        assert int(selector.pages(VALID, RECEIVED)[row]) * 2 == tokens
        whole = PageBounds(tokens)
        expected = whole.products(query[row : row + 1], whole.index(keys[row : row + 1], VALID[:1], {}))
        torch.testing.assert_close(bounds[row], expected[0].repeat_interleave(tokens // 2, -1))


def test_slots_without_a_token_move_no_bound():
    keys = torch.full((1, 1, 4, 1), 5.0)
    keys[0, 0, 2:] = 9.0
    valid = torch.tensor([[[True, True, False, False]]])
    state = {"received": torch.tensor([[[0.5, 0.0, 0.0, 0.0]]])}
    selector = SkewedChunks(1, sizes=2)
    index = selector.index(keys, valid, state)
    assert index["chunk"].tolist() == [[0, 0, 1, 1]]
    assert selector.products(torch.ones(1, 1, 1, 1), index).flatten().tolist() == [5, 5, 0, 0]


def test_chunks_need_queries():
    with pytest.raises(DcacheError, match="give its policy a QueryWindow observer"):
        SkewedChunks().index(torch.ones(1, 1, 1, 4), torch.ones(1, 1, 1, dtype=torch.bool), {})
