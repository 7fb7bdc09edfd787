import math

import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.scoring.preference import DispersionAndShift, InformationDensity
from dcache.lm_kv.scoring.questions import MeanQuery
from tests.lm_kv.language_models import batch, llama, prefilled
from tests.lm_kv.scoring.test_scorers import context, stored, window


def test_a_preference_is_entropy_and_variance_of_older_tokens():
    # Two older tokens with keys 0 and log 3; queries 0 and 1 give 1/4, 1/4 and 1/6, 1/2 of their attention.
    tokens = stored([[0.0], [math.log(3)], [0.0], [0.0]])
    state = window([[0.0], [1.0]], [3, 3])
    wanted = DispersionAndShift(tau1=2.0, tau2=0.5).of(tokens, context(4, state))
    mean = [(1 / 4 + 1 / 6) / 2, (1 / 4 + 1 / 2) / 2]
    entropy = -sum(m * math.log(m) for m in mean)
    variance = (1 / 4 - 1 / 6) ** 2 / 2 + (1 / 4 - 1 / 2) ** 2 / 2
    assert wanted.tolist() == pytest.approx([entropy**0.5 * variance**2], rel=1e-5)


def test_a_budget_is_conserved_over_layers():
    cache = prefilled(llama(), lm_kv.cake(window=4), batch(), budget=0.4)
    counts = torch.stack([layer.store.kept() for layer in cache.layers])
    assert counts.sum((0, 2)).tolist() == [10 * 6, 16 * 6]
    assert len(set(counts[:, 1, 0].tolist())) > 1


def test_a_policy_without_a_preference_is_refused():
    with pytest.raises(DcacheError, match="snapkv does not say which layers want more"):
        lm_kv.KVCache(llama(1), "snapkv", budget=0.4, allocation="preference")


def test_information_density_is_the_entropy_of_a_questions_attention():
    # The mean of queries 0 and 2 gives keys 0 and log 3 a quarter and three quarters.
    tokens = stored([[0.0], [math.log(3)]])
    wanted = InformationDensity(MeanQuery()).of(tokens, context(2, window([[0.0], [2.0]], [0, 1])))
    assert wanted.tolist() == pytest.approx([-sum(p * math.log(p) for p in (0.25, 0.75))], rel=1e-5)
