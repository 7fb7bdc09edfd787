import sys

import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import (
    batch,
    check_a_padded_row_is_as_alone,
    check_they_go_on_alike,
    copies,
    generate,
    llama,
    prefilled,
)
from tests.lm_kv.policies.common import check_a_part_is_read


def test_all_tokens_are_kept_and_a_part_is_read():
    check_a_part_is_read(lm_kv.retrieval_attention(sinks=0, window=4))


@torch.no_grad()
def test_what_is_read_are_the_largest_products():
    model, inputs = llama(1), {name: tensor[1:] for name, tensor in batch().items()}
    new = {"input_ids": torch.tensor([[6]]), "position_ids": torch.tensor([[40]])}
    policy = lm_kv.retrieval_attention(sinks=0, window=0)
    logits = model(**new, past_key_values=prefilled(model, policy, inputs, budget=11)).logits
    # All channels are labels: exact products too.
    every = lm_kv.double_sparsity(channels=16, window=0)
    expected = model(**new, past_key_values=prefilled(model, every, inputs, budget=11)).logits
    torch.testing.assert_close(logits, expected, atol=1.5e-5, rtol=0)


def test_all_but_the_window_is_on_the_host():
    stats = prefilled(llama(1), lm_kv.retrieval_attention(sinks=1, window=4), batch(), budget=0.4).stats()
    assert stats.bytes_host == (23 + 36) * 2 * 2 * 16 * 4


def test_a_graph_reads_what_an_exact_search_reads(tmp_path):
    pytest.importorskip("faiss")
    # Of one query head to a KV head: heads of a group guess from what each of them finds.
    model, inputs = llama(num_key_value_heads=4).double(), batch()
    graph = lm_kv.retrieval_attention(search="hnsw", sinks=1, window=4, every=4)
    found, _ = check_a_padded_row_is_as_alone(model, inputs, graph, budget=0.4)
    exact = lm_kv.KVCache(model, lm_kv.retrieval_attention(sinks=1, window=4, every=4), budget=0.4)
    _, expected = generate(model, inputs, exact)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    model = llama()
    cache = prefilled(model, graph, inputs, budget=0.4)
    with torch.no_grad():
        check_they_go_on_alike(model, [cache, *copies(cache, model, tmp_path / "c.safetensors")], 2, 1.5e-5)


def test_options_outside_their_range_are_refused(monkeypatch):
    for option, value in (("edges", 1), ("effort", 0)):
        with pytest.raises(DcacheError, match=f"{option} must be a whole number"):
            lm_kv.retrieval_attention(**{option: value})
    with pytest.raises(DcacheError, match="search must be 'exact' or 'hnsw', got 'ivf'"):
        lm_kv.retrieval_attention(search="ivf")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(DcacheError, match="faiss-cpu"):
        lm_kv.retrieval_attention(search="hnsw")
