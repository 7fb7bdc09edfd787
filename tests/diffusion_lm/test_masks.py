"""`Masks`: rows of captured masks, and block-causal ones that are recognised and extended."""

import pytest
import torch

from dcache import DcacheError
from dcache.diffusion_lm.masks import Masks, block_causal
from dcache.diffusion_lm.selection import Selection

ROWS = Selection(torch.tensor([[True, False, False, True], [False, True, False, False]]))


def captured(*masks):
    kept = Masks()
    for call, mask in enumerate(masks):
        kept.capture(call, mask)
    return kept


def test_rows_of_a_mask():
    mask = torch.arange(2 * 16).view(2, 1, 4, 4) % 3 == 0
    rows = captured(None, mask).rows(1, ROWS)
    assert torch.equal(rows[0, 0], mask[0, 0, [0, 3]])
    assert torch.equal(rows[1, 0, :1], mask[1, 0, [1]])
    assert captured(None).rows(0, ROWS) is None
    keys = torch.ones(2, 1, 1, 4, dtype=torch.bool)
    assert captured(keys).rows(0, ROWS) is keys


def test_layers_with_different_masks_keep_theirs():
    near, far = torch.ones(1, 1, 4, 4).tril().bool(), torch.ones(1, 1, 4, 4).triu().bool()
    kept = captured(near, far)
    assert torch.equal(kept.rows(0, ROWS)[0, 0], near[0, 0, [0, 3]])
    assert torch.equal(kept.rows(1, ROWS)[0, 0], far[0, 0, [0, 3]])


def test_a_block_causal_mask_is_recognised_and_extended():
    mask = block_causal(8, 4)
    assert mask[0, 0].long().sum(1).tolist() == [4] * 4 + [8] * 4
    additive = torch.zeros(1, 1, 8, 8).masked_fill(~mask, torch.finfo(torch.float32).min)
    for given in (mask, additive):
        kept = captured(given, given)
        assert kept.block() == 4
        assert kept.grow(12)
        wide = Selection(torch.ones(1, 12, dtype=torch.bool))
        seen = kept.rows(0, wide)
        seen = seen if seen.dtype == torch.bool else seen >= 0
        assert torch.equal(seen, block_causal(12, 4))


def test_other_masks_are_not_extended():
    causal = torch.ones(1, 1, 8, 8).tril().bool()
    assert captured(causal).block() is None
    assert not captured(causal).grow(12)
    assert captured(block_causal(8, 4), None).block() is None
    assert captured(None, None).grow(12)


def test_a_mask_of_two_dimensions_is_refused():
    with pytest.raises(DcacheError, match=r"need a mask \[B, H, T, T\], got \(2, 4\): .*sdpa"):
        captured(torch.ones(2, 4))
