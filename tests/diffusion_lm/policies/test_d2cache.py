"""The rows of `d2cache`, by hand; with everything in its shares it is the uncached run."""

import math

import pytest
import torch

import dcache
from dcache import DcacheError, diffusion_lm
from dcache.diffusion_lm.policies.d2cache import density, filled, nucleus
from dcache.methods import d2cache
from tests.diffusion_lm import masked_models as models
from tests.diffusion_lm.steps import columns, listed, step


def notes(**confidence):
    """A step with these confidences of sequence 0, and equal influence of all positions."""
    values = torch.zeros(2, 12)
    for place, value in confidence.items():
        values[0, int(place[1:])] = value
    return step(confidence=values, influence=torch.ones(2, 12))


def test_the_first_rows_are_all():
    assert listed(d2cache().policy.rows(step())) == [list(range(12))] * 2


def test_masked_rows_by_confidence_the_blocks_first():
    """Masks at 5 and 8 to 11, block 4 to 7: position 5 comes first whatever its confidence."""
    state = notes(_8=0.9, _9=0.2, _10=0.5, _11=0.8)
    # Sigma is small: every place sees itself alone, and nothing is known there, so density is nearly equal.
    policy = d2cache(masked=1, share=0, sigma=10).policy
    assert 5 in listed(policy.rows(state))[0]
    assert 8 not in listed(policy.rows(state))[0]
    masked = columns([5, 8, 9, 10, 11], [4, 6, 9])
    rows = d2cache(masked=3, share=0, sigma=1e3).policy.rows(state) & masked
    assert listed(rows)[0] == [5, 8, 11]


def test_masks_are_searched_up_to_the_end_of_the_block_that_has_enough():
    """Masks at 5 and 8: the block 8 to 11 is searched for two. For one that of 5 is."""
    state = notes(_5=0.1, _11=0.9)
    masked = columns([5, 8, 9, 10, 11], [4, 6, 9])
    assert listed(d2cache(masked=2, share=0).policy.rows(state) & masked)[0] == [5, 11]
    assert listed(d2cache(masked=1, share=0).policy.rows(state) & masked)[0] == [5]


def test_masks_that_a_loop_left_before_the_block_do_not_count():
    """Masks at 2, 5, 8 and 11, block 4 to 7: two from the block on are those of 5 and 11."""
    confidence = torch.zeros(2, 12)
    confidence[0, 11] = 0.9
    masked = columns([2, 5, 8, 11], [4, 6, 9])
    state = step(masked=masked, confidence=confidence, influence=torch.ones(2, 12))
    assert listed(d2cache(masked=2, share=0).policy.rows(state) & masked)[0] == [5, 11]


def test_other_rows_by_influence_without_masked_and_last_ones():
    influence = torch.ones(2, 12)
    influence[0, [1, 4, 5]] = torch.tensor([3.0, 50.0, 50.0])
    state = step(confidence=torch.zeros(2, 12), influence=influence)
    # Position 4 was decoded last, which is the delay's, 5 is masked. Others: 0 to 3, 6 and 7, of sum 3 + 5.
    assert listed(d2cache(masked=1, share=0.5).policy.rows(state))[0] == [0, 1, 5]
    assert listed(d2cache(masked=1, share=0.3).policy.rows(state))[0] == [1, 5]


def test_density_counts_what_is_known_around():
    known = torch.tensor([[True, False, True]])
    near = math.exp(-0.5)
    total = 1 + 2 * sum(math.exp(-(d**2) / 2) for d in range(1, 5))
    # Everything is known but position 1, at distances 1, 0 and 1.
    wanted = [1 - near / total, 1 - 1 / total, 1 - near / total]
    assert torch.allclose(density(known, 1.0)[0], torch.tensor(wanted))
    # Behind a last position that is masked nothing is known: of position 0 distances -4 to 0 are.
    seen = 1 + sum(math.exp(-(d**2) / 2) for d in range(1, 5))
    assert density(torch.tensor([[True, False]]), 1.0)[0, 0].item() == pytest.approx(seen / total)


def test_the_nucleus_is_within_its_share_and_has_one_at_least():
    score = torch.tensor([[4.0, 1.0, 3.0, 2.0]])
    assert listed(nucleus(score, 0.7)) == [[0, 2]]
    assert listed(nucleus(score, 0.69)) == [[0]]
    assert listed(nucleus(score, 0)) == [[0]]
    assert listed(nucleus(score, 1)) == [[0, 1, 2, 3]]


def test_short_gaps_are_filled():
    rows = columns([2, 5, 9])
    assert listed(filled(rows, 0)) == [[2, 5, 9]]
    assert listed(filled(rows, 3)) == [[2, 3, 4, 5, 9]]


@pytest.mark.parametrize(
    "options", [{"masked": 0}, {"share": 2}, {"sigma": 0}, {"gap": -1}, {"gap": 0.5}], ids=str
)
def test_options_are_checked(options):
    with pytest.raises(DcacheError, match=f"{next(iter(options))} must be"):
        d2cache(**options)


@pytest.mark.parametrize("build", [models.llama, models.DreamShaped], ids=lambda f: f.__name__)
def test_all_masked_and_all_other_rows_are_the_uncached_run(build):
    model, ids = build(), models.prompts(2)
    plain = diffusion_lm.generate(model, ids, max_new_tokens=8)
    with dcache.enabled(model, d2cache(masked=99, share=1)):
        out = diffusion_lm.generate(model, ids, max_new_tokens=8)
        assert dcache.stats(model).share == 1
    assert torch.equal(out, plain)
