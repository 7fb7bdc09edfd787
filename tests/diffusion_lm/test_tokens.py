"""How many tokens models have: of the embedding, else of the config, else unlimited."""

import math
from types import SimpleNamespace

import torch

from dcache.diffusion_lm.tokens import tokens_of
from tests.diffusion_lm import masked_models as models


def test_the_embedding_comes_before_the_config():
    model = models.llama()
    model.config.vocab_size = 7
    assert tokens_of(model) == models.VOCABULARY
    other = torch.nn.Linear(1, 1)
    assert tokens_of(other) == math.inf
    other.config = SimpleNamespace(vocab_size=7)
    assert tokens_of(other) == 7
