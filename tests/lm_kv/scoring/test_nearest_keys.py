import gc
import sys

import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.scoring import nearest_keys
from dcache.lm_kv.scoring.nearest_keys import EveryKey, KeyGraph

LIMIT = torch.tensor([5, 9])


def keys_and_query():
    torch.manual_seed(0)
    valid = torch.ones(2, 3, 40, dtype=torch.bool)
    valid[1, :, 25:] = False
    return torch.randn(2, 3, 40, 8), valid, torch.randn(2, 3, 2, 8)


def test_every_key_is_looked_at_exactly():
    keys, valid, query = keys_and_query()
    index = {**EveryKey().index(keys, valid, {}), "keys": keys}
    torch.testing.assert_close(EveryKey().products(query, index), query @ keys.mT)


def test_a_graph_finds_the_largest_products_of_each_query():
    pytest.importorskip("faiss")
    keys, valid, query = keys_and_query()
    graph = KeyGraph(edges=16, effort=64)
    index = {**graph.index(keys, valid, {}), "limit": LIMIT}
    products = (query @ keys.mT).masked_fill(~valid[:, :, None], float("-inf"))
    for row, limit in enumerate(LIMIT.tolist()):
        # A walk that remembers more keys than there are misses none.
        expected = torch.full_like(products[row], float("-inf"))
        best = products[row].topk(limit)
        expected.scatter_(-1, best.indices, best.values)
        torch.testing.assert_close(graph.products(query, index)[row], expected)


def test_rows_of_an_index_are_rows_of_graphs_which_are_freed_with_it():
    pytest.importorskip("faiss")
    keys, valid, query = keys_and_query()
    graph = KeyGraph()
    index = graph.index(keys, valid, {})
    swapped = {name: part[[1, 0]] for name, part in index.items()}
    own = graph.products(query[[1, 0]], {**swapped, "limit": LIMIT[[1, 0]]})
    assert torch.equal(own, graph.products(query, {**index, "limit": LIMIT})[[1, 0]])
    # Graphs of other tests may wait to be collected.
    gc.collect()
    before = len(nearest_keys.live_graphs)
    del index, swapped
    gc.collect()
    assert len(nearest_keys.live_graphs) == before - 2


def test_nothing_is_searched_where_nothing_may_be_read():
    pytest.importorskip("faiss")
    keys, valid, query = keys_and_query()
    index = {**KeyGraph().index(keys, valid, {}), "limit": torch.tensor([0, 0])}
    assert bool((KeyGraph().products(query, index) == float("-inf")).all())


def test_a_graph_without_its_library_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(DcacheError, match=r"needs faiss-cpu: pip install 'dcache-torch\[ann\]'"):
        nearest_keys.library()
