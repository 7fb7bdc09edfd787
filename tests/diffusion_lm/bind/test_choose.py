"""Which binding a model gets, and which models the self-check refuses."""

from types import SimpleNamespace

import pytest
import torch
import transformers as T
from torch import nn

from dcache import DcacheError
from dcache.diffusion_lm.bind.choose import bind
from tests.diffusion_lm import masked_models as models


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (models.llama, "attention interface"),
        (models.block_causal, "attention interface"),
        (models.DreamShaped, "cache argument"),
        (models.LLaDAShaped, "sdpa calls"),
        (models.LLaDA2Shaped, "attention interface"),
    ],
)
def test_the_binding_is_chosen_by_what_the_model_calls(build, name):
    model = build()
    assert bind(model, model).name == name


def random_model(name, auto, **options):
    config = T.AutoConfig.for_model(name, **{**models.BASE, "head_dim": 16, **options})
    config.is_causal = False
    torch.manual_seed(0)
    model = auto.from_config(config, attn_implementation="sdpa").eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.15)
    return model


def test_positions_that_the_model_makes_itself_are_caught():
    """XLM-R's positions have an offset: rows at explicit positions would silently be others."""
    model = random_model("xlm-roberta", T.AutoModelForMaskedLM, pad_token_id=1)
    with pytest.raises(DcacheError, match=r"XLMRobertaForMaskedLM cannot .*explicit positions differs"):
        bind(model, model)


class Mixer(nn.Module):
    """Tokens are mixed without attention."""

    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(60, 8), nn.Linear(8, 60)

    def forward(self, input_ids, position_ids=None):
        x = self.embed(input_ids)
        return SimpleNamespace(logits=self.out(x + x.mean(1, keepdim=True)))


def test_a_model_without_attention_is_refused_with_all_reasons():
    model = Mixer()
    with pytest.raises(DcacheError, match=r"interface: its attention is not called; .*sdpa calls: its"):
        bind(model, model)


class Positionless(models.DreamShaped):
    """Ignores the positions that it is given."""

    def forward(self, input_ids, position_ids=None, past_key_values=None, use_cache=None):
        return super().forward(input_ids, past_key_values=past_key_values)


def test_ignored_positions_are_caught_by_ragged_rows():
    model = Positionless()
    with pytest.raises(DcacheError, match="some rows by themselves differ from the same rows"):
        bind(model, model)
