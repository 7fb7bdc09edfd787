import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.scoring.selectors import LabelChannels, Landmarks, PageBounds


def test_bounds_of_pages_leave_unused_slots_out():
    keys = torch.tensor([[1.0, -2.0], [3.0, 0.0], [2.0, 5.0], [9.0, 9.0], [9.0, 9.0]]).view(1, 1, 5, 2)
    valid = torch.tensor([1, 1, 1, 0, 0]).bool().view(1, 1, 5)
    index = PageBounds(2).index(keys, valid, {})
    assert index["low"][0, 0].tolist() == [[1, -2], [2, 5], [0, 0]]
    assert index["high"][0, 0].tolist() == [[3, 0], [2, 5], [0, 0]]
    # A query of (2, -1): 2 * 3 + 2 and 2 * 2 - 5.
    assert PageBounds(2).products(torch.tensor([[[[2.0, -1.0]]]]), index)[0, 0, 0].tolist() == [8, -1, 0]


def test_bounds_are_never_below_a_product_of_the_page():
    keys, query = torch.randn(2, 3, 24, 8), torch.randn(2, 3, 2, 8)
    selector = PageBounds(4)
    bounds = selector.products(query, selector.index(keys, torch.ones(2, 3, 24, dtype=torch.bool), {}))
    largest = (query @ keys.mT).unflatten(-1, (6, 4)).amax(-1)
    assert (bounds >= largest - 1e-5).all()
    single = PageBounds(1)
    exact = single.products(query, single.index(keys, torch.ones(2, 3, 24, dtype=torch.bool), {}))
    torch.testing.assert_close(exact, query @ keys.mT)


def test_labels_are_the_channels_that_weigh_most():
    keys = torch.tensor([[4.0, 1.0, -1.0], [4.0, 1.0, 1.0]]).view(1, 1, 2, 3)
    valid = torch.ones(1, 1, 2, dtype=torch.bool)
    queries = torch.tensor([[0.1, 1.0, -2.0], [9.0, 9.0, 9.0]]).view(1, 1, 2, 3)
    state = {"query": queries, "valid": torch.tensor([[True, False]])}
    # Mean sizes are .1 * 4, 1 * 1 and 2 * 1; the second query is a pad.
    index = LabelChannels(2).index(keys, valid, state)
    assert index["channels"].tolist() == [[[1, 2]]]
    products = LabelChannels(2).products(torch.tensor([[[[7.0, 2.0, 3.0]]]]), index)
    assert products.flatten().tolist() == [2 - 3, 2 + 3]
    every = LabelChannels(8)
    torch.testing.assert_close(every.products(queries, every.index(keys, valid, state)), queries @ keys.mT)


def test_labels_need_queries():
    with pytest.raises(DcacheError, match="give its policy a QueryWindow observer"):
        LabelChannels().index(torch.ones(1, 1, 1, 4), torch.ones(1, 1, 1, dtype=torch.bool), {})


def test_landmarks_are_the_mean_keys_of_pages():
    keys = torch.tensor([[1.0, 0.0], [3.0, 4.0], [2.0, 5.0], [9.0, 9.0]]).view(1, 1, 4, 2)
    valid = torch.tensor([1, 1, 1, 0]).bool().view(1, 1, 4)
    index = Landmarks(2).index(keys, valid, {})
    assert index["landmarks"].tolist() == [[[[2, 2], [2, 5]]]]
    assert Landmarks(2).products(torch.tensor([[[[1.0, -1.0]]]]), index).flatten().tolist() == [0, -3]
    # Fewer than 16 pages have none that is always read.
    assert not index["always"].any()
