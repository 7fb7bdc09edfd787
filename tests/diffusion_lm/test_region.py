"""Generation regions of callers' own loops, by hand; 9 is the mask token."""

import torch

from dcache.diffusion_lm.region import region_of


def columns(ids, *others):
    region = region_of(torch.tensor(ids), [torch.tensor(other) for other in others], 9)
    return [row.nonzero().flatten().tolist() for row in region]


def test_rows_of_other_texts_have_regions_of_their_own():
    assert columns([[1, 2, 9, 9, 5], [1, 9, 9, 3, 5]]) == [[2, 3], [1, 2]]
    assert columns([[1, 2, 9, 9]]) == [[2, 3]]


def test_guidance_generates_what_the_masked_prompts_row_does():
    assert columns([[1, 2, 9, 9], [3, 4, 9, 9], [9, 9, 9, 9], [9, 9, 9, 9]]) == [[2, 3]] * 4
    assert columns([[9, 9, 9, 5], [1, 2, 9, 5]]) == [[2], [2]]


def test_guidance_by_calls_in_turn():
    assert columns([[9, 9, 9, 9]], [[1, 2, 9, 9]]) == [[2, 3]]
    # Everything may be masked, also between what is generated.
    assert columns([[9, 9, 9, 9]], [[9, 2, 9, 4]]) == [[0, 2]]
    # A score of the same text with other masks is no guidance.
    assert columns([[1, 9, 9, 9]], [[1, 9, 3, 4]]) == [[1, 2, 3]]
    # Another text, a text without a mask, and one with more masks take nothing away.
    assert columns([[1, 9, 9, 4]], [[2, 9, 3, 4]]) == [[1, 2]]
    assert columns([[1, 9, 9, 4]], [[1, 2, 3, 4]]) == [[1, 2]]
    assert columns([[1, 2, 9, 9]], [[9, 9, 9, 9]]) == [[2, 3]]
