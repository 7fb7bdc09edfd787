"""Models bound for policies that choose rows between layers."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dcache import DcacheError
from dcache.diffusion_lm import make
from dcache.diffusion_lm.prepare import engine_for
from tests.diffusion_lm import masked_models as models

BUILDS = {
    "interface": models.llama,
    "cache": models.DreamShaped,
    "sdpa": models.LLaDAShaped,
    "block-causal": models.block_causal,
    "experts": models.LLaDA2Shaped,
}


@pytest.mark.parametrize("method", ["dllm_cache", "elastic"])
@pytest.mark.parametrize("name", BUILDS)
def test_taps_are_put_on_models_of_every_binding(name, method):
    model = BUILDS[name]()
    with torch.no_grad():
        engine = engine_for(model, model, make(method).policy)
    assert engine.taps.count == 3
    engine.remove()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_others_have_no_taps():
    model = models.llama()
    with torch.no_grad():
        assert engine_for(model, model, make("dual").policy).taps is None


class WritesIntoItsInput(models.DreamAttention):
    def forward(self, x, mask, cache, angle):
        out = super().forward(x, mask, cache, angle)
        x.mul_(0.5)
        return out


def written() -> models.DreamShaped:
    model = models.DreamShaped()
    model.layers = nn.ModuleList(WritesIntoItsInput(i) for i in range(3)).eval()
    return model


class AddsOutside(models.DreamShaped):
    """Its layers return what it adds, so no more rows than it has may come out of them."""

    def forward(
        self, input_ids, attention_mask="full", position_ids=None, past_key_values=None, use_cache=None
    ):
        x = self.embed(input_ids)
        if position_ids is None:
            position_ids = torch.arange(x.shape[1])[None]
        for layer in self.layers:
            x = x + layer(x, attention_mask, past_key_values, models.angles(position_ids, 16))
        return SimpleNamespace(logits=self.lm_head(x))


@pytest.mark.parametrize(
    ("build", "name", "reason"),
    [
        (written, "dllm_cache", "rows chosen between layers differ from the same rows of a whole pass"),
        (AddsOutside, "elastic", "RuntimeError The size of tensor a"),
    ],
)
def test_layers_whose_rows_do_not_stay_exact_are_refused(build, name, reason):
    model = build()
    with torch.no_grad():
        engine_for(model, model, make("dual").policy)
        with pytest.raises(DcacheError, match=rf"cannot choose rows between its layers \({reason}"):
            engine_for(model, model, make(name).policy)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
