"""The guide's rules, by hand; its ends and its cache are in test_generation.py."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dcache import DcacheError
from dcache.diffusion_lm.decoders import Proposal, guided


class Guide(nn.Module):
    """Predicts the successor of each token with probability .6, the one after it with .3."""

    def forward(self, input_ids, use_cache):
        chances = torch.full((*input_ids.shape, 6), 0.1 / 4)
        chances.scatter_(-1, ((input_ids + 1) % 6)[..., None], 0.6)
        chances.scatter_(-1, ((input_ids + 2) % 6)[..., None], 0.3)
        return SimpleNamespace(logits=chances.log())


@pytest.mark.parametrize(
    ("rule", "level", "count"),
    [
        ("argmax", 0, 2),
        ("probability", 0.2, 3),
        ("top_k", 2, 3),
        ("relative", 0.4, 3),
        ("probability", 0.5, 2),
    ],
)
def test_the_longest_prefix_that_passes_is_committed(rule, level, count):
    """1 | 2, 3 are the guide's own choices, 5 its second, 2 none."""
    draft = torch.tensor([[1, 2, 3, 5, 2]])
    candidates = torch.tensor([[False, True, True, True, True]])
    proposal = Proposal(torch.tensor([[1, 0, 0, 0, 0]]), candidates, draft[:, 0], draft.double(), draft)
    take = guided(Guide(), rule, level, cache=False).pick(proposal)
    assert take[0].nonzero().flatten().tolist() == list(range(1, 1 + count))


def test_options_are_checked():
    with pytest.raises(DcacheError, match="needs guide="):
        guided(None)
    with pytest.raises(DcacheError, match="rule must be one of argmax, probability"):
        guided(Guide(), "best")
    with pytest.raises(DcacheError, match="span must be a whole number of at least 1"):
        guided(Guide(), span=0)
