"""The rows of `dllm_cache`, by hand."""

import pytest
import torch

from dcache import DcacheError
from dcache.methods import dllm_cache
from tests.diffusion_lm.steps import listed, step

ANSWER, EVERY = list(range(4, 12)), list(range(12))


def test_the_answer_and_the_prompt_at_its_interval_of_each_sequence():
    policy = dllm_cache(prompt=3).policy
    assert listed(policy.rows(step(turns=torch.tensor([4, 6])))) == [ANSWER, EVERY]
    assert policy.refresh(step()) is None


@pytest.mark.parametrize(
    "options", [{"prompt": 0}, {"response": 0}, {"share": 1.5}, {"share": -0.1}], ids=str
)
def test_options_are_checked(options):
    with pytest.raises(DcacheError, match=f"{next(iter(options))} must be"):
        dllm_cache(**options)
