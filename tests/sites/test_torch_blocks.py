"""torch's transformer layers: which of their methods are sublayers, and when there are none."""

from typing import Any

import pytest
import torch
from torch import nn

from dcache.sites.blocks import methods_of, runs_as_one
from dcache.sites.discovery import discover
from tests.policies import TRANSFORMERS, Decoder, made


def encoder_layer(**options: Any) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(
        8, options.pop("heads", 2), 16, **{"batch_first": True, **options}
    ).eval()


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_decoder_layer_has_three_methods_and_calls_them_in_this_order(norm_first: bool) -> None:
    layer = nn.TransformerDecoderLayer(8, 2, 16, norm_first=norm_first)
    assert methods_of(layer) == {"attn": "_sa_block", "cross_attn": "_mha_block", "mlp": "_ff_block"}


@pytest.mark.parametrize(
    ("options", "one"),
    [
        ({}, True),
        ({"activation": "gelu", "norm_first": True}, True),
        ({"batch_first": False}, False),
        ({"activation": torch.tanh}, False),
        ({"heads": 1}, False),
    ],
    ids=["relu", "gelu", "sequence first", "tanh", "one head"],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_an_encoder_layer_has_sublayers_where_torch_calls_its_methods(options: Any, one: bool) -> None:
    layer, called = encoder_layer(**options), []
    assert runs_as_one(layer) is one
    assert methods_of(layer) == ({} if one else {"attn": "_sa_block", "mlp": "_ff_block"})
    plain = layer._ff_block
    layer._ff_block = lambda x: (called.append(1), plain(x))[1]
    with torch.no_grad():
        layer(torch.zeros(2, 4, 8))
    assert bool(called) is not one


class Reversed(nn.TransformerDecoderLayer):
    def forward(self, tgt: Any, memory: Any, *_: Any, **__: Any) -> Any:
        return tgt + self._ff_block(tgt)


def test_a_subclass_has_what_its_forward_calls() -> None:
    assert methods_of(Reversed(8, 2, 16)) == {"mlp": "_ff_block"}


def test_the_trunk_is_the_decoder_even_beside_an_encoder_of_as_many_layers() -> None:
    model = made(lambda: Decoder(cond_layers=3))
    assert discover(model).blocks == list(model.decoder.layers)


@pytest.mark.parametrize("name", ["decoder", "encoder", "encoder, sequence first", "joint", "ada", "cross"])
def test_sites_of_policies_are_found_before_any_call(name: str) -> None:
    make, sites = TRANSFORMERS[name]
    structure = discover(made(make))
    assert len(structure.blocks) == 3
    assert sorted(sublayer.name for sublayer in structure.sublayers) == sorted(sites)
