from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from dcache import lm_kv
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.scoring.scorers import Context
from dcache.lm_kv.storage.stored import Stored
from tests.lm_kv.language_models import batch, llama, prefilled

SEEN = (27, 40)
TOKENS = (10, 16)


def kept(cache):
    return torch.stack([layer.store.kept() for layer in cache.layers])


@pytest.mark.parametrize("name", ["keydiff", "h2o", "snapkv"])
def test_uniform_budgets_are_the_same_in_every_head_and_layer(name):
    policy = lm_kv.snapkv(window=4) if name == "snapkv" else lm_kv.make(name)
    counts = kept(prefilled(llama(), policy, batch(), budget=0.4))
    assert counts.tolist() == [[[10, 10], [16, 16]]] * 3


def test_heads_of_a_layer_share_its_budget_and_have_a_floor():
    counts = kept(prefilled(llama(), lm_kv.keydiff(allocation="heads"), batch(), budget=0.4, floor=0.5))
    assert counts.sum(2).tolist() == [[20, 32]] * 3
    assert len(set(counts.flatten().tolist())) > 2
    assert (counts.amin((0, 2)) >= torch.tensor([5, 8])).all()


def test_layers_get_less_with_depth_and_add_up():
    counts = kept(prefilled(llama(), lm_kv.snapkv(window=2, allocation="layers"), batch(), budget=0.4))
    # From twice the budget less a fifth of it to that fifth: 10 -> 18, 10, 2 and 16 -> 29, 16, 3.
    assert counts.tolist() == [[[18, 18], [29, 29]], [[10, 10], [16, 16]], [[2, 2], [3, 3]]]


@pytest.mark.parametrize("name", ["keydiff", "kvzip"])
def test_a_global_budget_adds_up_over_layers_and_heads(name):
    counts = kept(prefilled(llama(), lm_kv.make(name, allocation="global"), batch(), budget=0.4))
    assert counts.sum((0, 2)).tolist() == [n * 2 * 3 for n in TOKENS]
    assert (counts.amin((0, 2)) >= torch.tensor([2, 3])).all()
    assert len(set(counts[:, 1].flatten().tolist())) > 2


def test_dense_layers_keep_everything_beside_the_budget():
    counts = kept(prefilled(llama(), "keydiff", batch(), budget=0.4, dense_layers=(0,)))
    assert counts[0].tolist() == [[27, 27], [40, 40]]
    assert counts[1:].tolist() == [[[10, 10], [16, 16]]] * 2


def test_a_budget_of_everything_evicts_nothing():
    assert prefilled(llama(), "keydiff", batch(), budget=1.0).stats().evictions == 0


@dataclass(frozen=True)
class Close:
    """Newer tokens have the higher score, by less than float32 can tell."""

    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        return 1000 + 1e-9 * stored.positions.double()


@pytest.mark.parametrize("allocation", ["uniform", "heads", "global"])
def test_scores_in_float64_are_compared_as_such(allocation):
    policy = Policy(scorer=Close(), sinks=0, window=0, allocation=allocation)
    for layer in prefilled(llama(2), policy, batch(), budget=8).layers:
        stored = layer.store.stored()
        for row, seen in enumerate(SEEN):
            held = stored.positions[row][stored.valid[row]].tolist()
            assert sorted(held) == sorted(2 * [*range(seen - 8, seen)])


def test_protected_tokens_are_kept_whatever_their_score():
    cache = prefilled(llama(1), lm_kv.random(sinks=2, window=3), batch(), budget=0.4)
    store = cache.layers[0].store
    positions = store.segments[0].positions[: store.segments[0].sizes[0]].tolist()
    assert positions[:2] == [0, 1]
    assert store.tail.positions.tolist() == [[24, 25, 26], [37, 38, 39]]
