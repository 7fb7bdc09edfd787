import torch

from dcache import lm_kv
from dcache.lm_kv.layers.windowed import keys_at_start, queries_at, state_at
from tests.lm_kv.language_models import llama


def test_products_depend_on_the_distance_alone():
    model = llama(1)
    shared = lm_kv.KVCache(model, "a2ats", budget=8).layers[0].shared
    query, key = torch.randn(1, 4, 1, 16), torch.randn(1, 2, 1, 16)

    def at(states: torch.Tensor, place: int) -> torch.Tensor:
        return shared.turn(0, states, torch.tensor([[place]]), "forward")

    expected = at(query, 9) @ at(key, 2).repeat_interleave(2, 1).mT
    for places in ((50, 31), (43, 12)):
        asked = queries_at(shared, 0, at(query, places[0]), torch.tensor([[places[0]]]), 7)
        kept = keys_at_start(shared, 0, at(key, places[1]), torch.full((1, 2, 1), places[1]))
        torch.testing.assert_close(asked @ kept.repeat_interleave(2, 1).mT, expected, atol=1e-5, rtol=0)


def test_the_states_queries_are_turned_too():
    shared = lm_kv.KVCache(llama(1), "a2ats", budget=8).layers[0].shared
    query = torch.randn(1, 4, 2, 16)
    places = torch.tensor([[3, 4]])
    state = {"query": query, "position": places, "valid": torch.ones(1, 2, dtype=torch.bool)}
    turned = state_at(shared, 0, state, 5)
    torch.testing.assert_close(turned["query"], queries_at(shared, 0, query, places, 5))
    assert turned["valid"] is state["valid"]
    assert state_at(shared, 0, {}, 5) == {}
