import pytest
import torch

from dcache.lm_kv.scoring.signatures import Representatives
from dcache.lm_kv.storage.stored import Stored
from tests.lm_kv.scoring.test_scorers import context

TOKENS = 10


def two_heads(first: list[float], second: list[float]) -> tuple[Stored, dict[str, torch.Tensor]]:
    """One KV head of two query heads, whose last query at position 9 gives logits of so much."""
    keys = torch.tensor([first, second]).T.reshape(1, 1, TOKENS, 2)
    valid = torch.ones(1, 1, TOKENS, dtype=torch.bool)
    query = torch.eye(2).view(1, 2, 1, 2)
    state = {"query": query, "position": torch.tensor([[9]]), "valid": torch.ones(1, 1, dtype=torch.bool)}
    return Stored(keys, keys, torch.arange(TOKENS).view(1, 1, -1), valid), state


@pytest.mark.parametrize(
    ("anchor", "representatives"),
    [
        # Bits are 10 at token 1, 01 at token 4 and 00 at all others; 0 and 2 are the important ones. In the
        # order of distances to 11: 1, 4, 3, 5, 6, 7, 8, of which every 7/3-th is taken.
        ("ones", [3, 6, 8]),
        # To 00: 3, 5, 6, 7, 8, 1, 4.
        ("zeros", [6, 8, 4]),
        # To 01: 4, 3, 5, 6, 7, 8, 1.
        ("alternating", [5, 7, 1]),
    ],
)
def test_representatives_lie_evenly_in_the_order_of_their_distances(anchor, representatives):
    # Both heads like tokens 0 and 2; each has one more among its own two best.
    first = [6.3, 6.4, 6.5, 0, 0, 0, 0, 0, 0, 0]
    second = [6.3, 0, 6.5, 0, 6.4, 0, 0, 0, 0, 0]
    tokens, state = two_heads(first, second)
    # Six tokens, one of them the window's: floor(5 * 0.4) are important, three stand for the others.
    scorer = Representatives(0.4, anchor)
    score = scorer.score(tokens, context(TOKENS, state, tokens=torch.tensor([6])))[0, 0]
    assert (score >= 2).nonzero().flatten().tolist() == [0, 2]
    assert set((score == 1).nonzero().flatten().tolist()) == set(representatives)
