import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.scoring.observers import symmetric
from tests.lm_kv.language_models import batch, family, llama, prefilled


def test_sinks_and_the_highest_scores_are_kept():
    cache = prefilled(llama(2), lm_kv.expected_attention(sinks=4), batch(), budget=10)
    for layer in cache.layers:
        assert layer.store.kept().tolist() == [[10, 10], [10, 10]]
        for run in layer.store.segments[0].positions.split(10):
            assert run[:4].tolist() == [0, 1, 2, 3]


@torch.no_grad()
def test_the_moments_are_of_queries_before_rotation_without_the_sinks():
    model, inputs = llama(1), {name: tensor[1:] for name, tensor in batch().items()}
    cache = prefilled(model, "expected_attention", inputs, budget=1.0)
    attention = model.model.layers[0].self_attn
    hidden = model.model.layers[0].input_layernorm(model.model.embed_tokens(inputs["input_ids"]))
    queries = attention.q_proj(hidden).view(1, 40, 4, 16).transpose(1, 2)[:, :, 4:]
    state = cache.layers[0].state
    torch.testing.assert_close(state["sum"], queries.sum(2), atol=1e-4, rtol=1e-4)
    products = symmetric(state["products"], 16)
    torch.testing.assert_close(products, queries.mT @ queries, atol=1e-3, rtol=1e-4)
    assert state["count"].tolist() == [36]


def test_it_runs_where_some_layers_do_not_rotate():
    assert prefilled(family("llama4"), "expected_attention", batch(), budget=10).stats().kept == (10.0, 10.0)


@pytest.mark.filterwarnings("ignore:sinks=:dcache.DcacheWarning")
def test_a_row_of_sinks_alone_has_finite_scores():
    inputs = {name: tensor[:, :3] for name, tensor in batch(pads=0).items()}
    assert prefilled(llama(1), "expected_attention", inputs, budget=2).stats().kept == (2.0, 2.0)


def test_no_future_is_refused():
    with pytest.raises(DcacheError, match="future must be a whole number of at least 1"):
        lm_kv.expected_attention(future=0)
