import pytest
import torch

from dcache.lm_kv.model.attention import Logits
from dcache.lm_kv.scoring.scorers import Context, window_attention
from dcache.lm_kv.scoring.window_columns import window_columns
from dcache.lm_kv.storage.stored import Stored


@pytest.mark.parametrize(
    "logits",
    [Logits(0.5), Logits(0.5, softcap=2.0), Logits(0.5, sinks=torch.tensor([1.0, 0.0, -1.0, 2.0]))],
    ids=["plain", "softcap", "sinks"],
)
@pytest.mark.parametrize("biased", [False, True])
def test_columns_are_sums_and_maxima_of_the_weights(logits, biased):
    keys, query = torch.randn(2, 2, 9, 8), torch.randn(2, 4, 3, 8)
    positions = torch.arange(9).expand(2, 2, -1).clone()
    valid = torch.ones(2, 2, 9, dtype=torch.bool)
    valid[0, 1, 6:] = valid[1, 0, 0] = False
    bias = torch.randn(2, 2, 9) if biased else None
    stored = Stored(keys, keys, positions, valid, bias)
    # The first row lacks its first query.
    state = {
        "query": query,
        "position": torch.tensor([[0, 5, 8], [4, 6, 7]]),
        "valid": torch.tensor([[False, True, True], [True, True, True]]),
    }
    context = Context(0, state, torch.tensor([9, 9]), logits, lambda start, count: torch.eye(8))
    weights, _ = window_attention(stored, context)
    sums, maxima, counted = window_columns(stored, state, logits)
    torch.testing.assert_close(sums, weights.mean(2).sum(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(maxima, weights.amax((2, 3)), atol=1e-6, rtol=0)
    assert torch.equal(counted, state["valid"])
