"""Options of a decoding loop."""

import pytest
import torch

from dcache import DcacheError, diffusion_lm
from dcache.diffusion_lm.loop import Options
from tests.diffusion_lm import masked_models as models


def test_numbers_are_checked():
    for changes, message in (
        ({"new": 0}, "max_new_tokens"),
        ({"block": 0}, "block"),
        ({"steps": 0}, "steps"),
        ({"temperature": -1}, "temperature"),
    ):
        options = {"new": 1, "block": 1, "steps": None, "temperature": 0.0, **changes}
        with pytest.raises(DcacheError, match=f"{message} must be a"):
            Options(**options, seed=0, attention_mask=None, mask_id=None, eos_id=None, callback=None)


def test_blocks_are_decoded_one_after_the_other():
    """Two blocks of 3 and one of 2, whatever the order within."""
    seen = []
    diffusion_lm.generate(
        models.llama(),
        models.prompts(1),
        max_new_tokens=8,
        block=3,
        decoder="random",
        callback=lambda _, ids, __: seen.append((ids[0, 8:] != models.MASK).nonzero().flatten().tolist()),
    )
    assert [set(seen[n]) for n in (2, 5, 7)] == [{0, 1, 2}, set(range(6)), set(range(8))]
    assert [len(places) for places in seen] == list(range(1, 9))
    assert torch.is_grad_enabled()
