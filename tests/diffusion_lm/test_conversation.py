"""Which calls of a loop belong together by their other arguments."""

import pytest
import torch

import dcache
from dcache import DcacheError
from tests.diffusion_lm import masked_models as models


class Conditioned(torch.nn.Module):
    """Its condition, a tensor or a number, is added to the first column's logits."""

    def __init__(self):
        super().__init__()
        self.model = models.llama()
        self.config = self.model.config

    def forward(self, input_ids, condition=0.0, position_ids=None, attention_mask=None, **more):
        out = self.model(input_ids, attention_mask, position_ids, **more)
        out.logits = out.logits + condition
        return out


def masked(ids, start):
    ids = ids.clone()
    ids[:, start:] = models.MASK
    return ids


@pytest.mark.parametrize(
    "conditions", [(0.0, 3.0), (torch.zeros(1), torch.ones(1))], ids=["number", "tensor"]
)
def test_guidance_that_an_argument_tells_has_a_stream_for_each(conditions):
    """With equal ids the second call is no continuation: its logits are those of its own condition."""
    model, x = Conditioned().eval(), masked(models.prompts(2), 4)
    with torch.no_grad():
        plain = [model(x, condition=condition).logits for condition in conditions]
        dcache.enable(model, dcache.methods.dkv(refresh=0))
        for condition, logits in zip(conditions, plain, strict=True):
            assert torch.equal(model(x, condition=condition).logits, logits)
        x[:, 4] = 5
        for condition in conditions:
            out = model(x, condition=condition).logits
        stats = dcache.stats(model)
        # Two full calls, then of each stream three masked rows and the decoded one, in two texts.
        assert stats.rows == 2 * (2 * 8) + 2 * (2 * 4)
        # Later calls with the same ids and other arguments are computed, too.
        assert not torch.equal(model(x, condition=7.0).logits, out)
        assert stats.refreshes == {"start": 2, "arguments": 1}


def test_an_argument_of_the_step_goes_on_with_the_stream():
    """A model that is told the time gets another number at each step, in which tokens are decoded."""
    model, x = Conditioned().eval(), masked(models.prompts(1), 4)
    dcache.enable(model, dcache.methods.dkv(refresh=0))
    with torch.no_grad():
        model(x, condition=1.0)
        x[:, 4] = 5
        model(x, condition=0.5)
    assert dcache.stats(model).refreshes == {"start": 1}
    assert dcache.stats(model).rows == 8 + 4


def test_a_cache_that_is_not_wanted_is_no_matter():
    model, x = models.llama(), masked(models.prompts(1), 4)
    with torch.no_grad():
        plain = model(x).logits
        dcache.enable(model, dcache.methods.dkv())
        more = {"use_cache": False, "past_key_values": None, "output_attentions": False, "logits_to_keep": 0}
        assert torch.equal(model(x, **more).logits, plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_cache": True}, "the call brings use_cache"),
        ({"logits_to_keep": 1}, "the call brings logits_to_keep"),
        ({"logits_to_keep": torch.arange(2)}, "the call brings logits_to_keep"),
        ({"return_dict": False}, "must return an object with logits, got tuple: leave return_dict=False out"),
        ({"input_ids": torch.arange(8)}, r"needs input_ids \[B, T\] in the model's call, got \[8\]"),
        ({"input_ids": models.prompts()[:0]}, r"needs input_ids .* got \[0, 8\]"),
    ],
    ids=["cache", "one", "some", "tuple", "one text", "none"],
)
def test_what_rows_cannot_answer_is_refused(options, message):
    model = dcache.enable(models.llama(), dcache.methods.dkv())
    with torch.no_grad(), pytest.raises(DcacheError, match=message):
        model(**{"input_ids": models.prompts(1), **options})
