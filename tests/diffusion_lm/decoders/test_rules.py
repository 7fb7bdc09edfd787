"""Which tokens each decoder commits, by hand."""

import pytest
import torch

from dcache import DcacheError
from dcache.diffusion_lm import decoders
from dcache.diffusion_lm.decoders import Proposal

CANDIDATES = torch.tensor([[True, True, False, True, True]])
CONFIDENCE = torch.tensor([[0.5, 0.95, 0.99, 0.9, 0.95]])


def picked(decoder, quota=1, **changes):
    options = {
        "ids": torch.zeros(1, 5, dtype=torch.long),
        "candidates": CANDIDATES,
        "quota": torch.tensor([quota]),
        "order": torch.tensor([[0.1, 0.9, 0.95, 0.3, 0.2]]).double(),
        "tokens": torch.zeros(1, 5, dtype=torch.long),
        "confidence": CONFIDENCE,
        "entropy": torch.tensor([[0.3, 0.02, 0.0, 0.05, 0.01]]),
    }
    return decoder.pick(Proposal(**{**options, **changes}))[0].nonzero().flatten().tolist()


def test_the_fixed_schedule():
    # Ties go to the left; what is no candidate is never taken.
    assert picked(decoders.low_confidence()) == [1]
    assert picked(decoders.low_confidence(), 3) == [1, 3, 4]
    assert picked(decoders.random(), 2) == [1, 3]
    assert picked(decoders.left(), 3) == [0, 1, 3]
    assert picked(decoders.left(), 9) == [0, 1, 3, 4]


def test_a_threshold_takes_the_best_token_at_least():
    assert picked(decoders.threshold(0.9)) == [1, 3, 4]
    assert picked(decoders.threshold(0.94)) == [1, 4]
    assert picked(decoders.threshold(1.0)) == [1]


def test_the_factor_rule():
    """(n + 1)(1 - c_n): 2 x .05, 3 x .05, 4 x .1, 5 x .5 for the candidates by confidence."""
    assert picked(decoders.factor(0.05)) == [1]
    assert picked(decoders.factor(0.12)) == [1]
    assert picked(decoders.factor(0.2)) == [1, 4]
    assert picked(decoders.factor(0.5)) == [1, 3, 4]
    assert picked(decoders.factor(3.0)) == [0, 1, 3, 4]


def test_the_entropy_bound_counts_what_lies_before_the_largest():
    """Entropies .01, .02, .05, .3: sums before them 0, .01, .03, .08."""
    assert picked(decoders.entropy_bound(0.0)) == [4]
    assert picked(decoders.entropy_bound(0.02)) == [1, 4]
    assert picked(decoders.entropy_bound(0.04)) == [1, 3, 4]
    assert picked(decoders.entropy_bound(0.1)) == [0, 1, 3, 4]


def test_a_row_without_candidates_takes_nothing():
    for name in decoders.DECODERS:
        assert picked(decoders.make_decoder(name, 0.9), 3, candidates=torch.zeros_like(CANDIDATES)) == []


def test_guided_is_known_and_needs_a_guide():
    with pytest.raises(DcacheError, match="decoder='guided' needs a guide"):
        decoders.make_decoder("guided", 0.9)


def test_an_unknown_name_is_refused():
    with pytest.raises(DcacheError, match=r"decoder 'lefty' is unknown: .* Did you mean 'left'"):
        decoders.make_decoder("lefty", 0.9)
    with pytest.raises(DcacheError, match="factor must be a number of at least 0"):
        decoders.factor(-1)
