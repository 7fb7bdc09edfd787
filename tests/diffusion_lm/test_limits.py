"""Models and calls that are refused."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dcache import DcacheError
from dcache.diffusion_lm import limits
from tests.diffusion_lm import masked_models as models


def test_the_mask_id_is_the_given_the_pipelines_or_the_configs():
    model = models.llama()
    assert limits.mask_of(model, 7) == 7
    assert limits.mask_of(model, None, SimpleNamespace(mask_token_id=8)) == 8
    assert limits.mask_of(model, None, SimpleNamespace(mask_token_id=None)) == models.MASK
    with pytest.raises(DcacheError, match="no mask id was found for Linear"):
        limits.mask_of(nn.Linear(1, 1), None)


def test_dreams_logits_are_shifted():
    assert limits.shifted(models.DreamShaped(), None)
    assert not limits.shifted(models.llama(), None)
    assert limits.shifted(models.llama(), True)


def test_uniform_corruption_is_refused():
    class Canvas(nn.Module):
        def forward(self, input_ids, decoder_input_ids):
            return input_ids

    with pytest.raises(DcacheError, match="Canvas corrupts tokens uniformly: it has no mask token"):
        limits.check_model(Canvas().eval())
    limits.check_model(models.llama())


def test_pads_that_are_masks_and_long_sequences():
    model = models.llama()
    real = torch.tensor([[False, True]])
    limits.check_pads(model, 59, real)
    limits.check_pads(model, 0, torch.ones_like(real))
    with pytest.raises(DcacheError, match="pad_token_id and the mask id are both 0"):
        limits.check_pads(model, 0, real)
    limits.check_width(model, 128)
    with pytest.raises(DcacheError, match="have 129 tokens, and LlamaForCausalLM has positions for 128"):
        limits.check_width(model, 129)
