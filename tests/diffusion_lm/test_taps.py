"""Hooks on the layers of a model."""

import pytest
import torch
from torch import nn

from dcache import DcacheError
from dcache.diffusion_lm.masks import Masks
from dcache.diffusion_lm.passes import Observer, Pass, running
from dcache.diffusion_lm.selection import Selection
from dcache.diffusion_lm.store import KVStore
from dcache.diffusion_lm.taps import LayerTaps, decoder_layers
from tests.diffusion_lm import masked_models as models


def test_the_layers_are_the_largest_list():
    model = models.llama()
    assert decoder_layers(model) == list(model.model.layers)
    with pytest.raises(DcacheError, match="Linear has no list of layers"):
        decoder_layers(nn.Linear(1, 1))


class Doubling(Observer):
    """Doubles what enters a layer, and adds one to what leaves it."""

    def enter(self, forward, layer, module, args, kwargs):
        return (args[0] * 2, *args[1:]), kwargs

    def leave(self, forward, layer, output):
        return output + 1


def test_an_observer_changes_what_enters_and_leaves_in_its_pass_alone():
    model = nn.Sequential()
    model.layers = nn.ModuleList([nn.Identity(), nn.Identity()])
    taps, x = LayerTaps(model), torch.ones(1)
    assert taps.count == 2
    selection = Selection(torch.ones(1, 1, dtype=torch.bool))

    def run(observer):
        with running(Pass(selection, KVStore(), Masks(), observer)):
            return model.layers[1](model.layers[0](x)).item()

    # (1 * 2 + 1) * 2 + 1
    assert run(Doubling()) == 7
    assert run(None) == model.layers[0](x).item() == 1
    taps.remove()
    assert run(Doubling()) == 1
