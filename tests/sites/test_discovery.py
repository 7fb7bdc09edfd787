"""Discovery: which blocks, sublayers and skips are found in a model."""

import pytest
import torch
from diffusers import PixArtTransformer2DModel, UNet2DModel
from torch import nn

from dcache.errors import DcacheError
from dcache.sites.discovery import discover
from dcache.sites.site import Site
from tests.sites.models import (
    Aside,
    BasicTransformerBlock,
    Block,
    Flat,
    Nested,
    Refined,
    Skipping,
    TwoLists,
    names,
)


def test_a_list_of_blocks_is_the_trunk_and_plain_layers_are_not():
    model = Flat()
    assert discover(model).blocks == list(model.blocks)
    assert discover(model).sublayers == []
    assert discover(model).skips == []


def test_two_lists_of_the_model_are_one_trunk_in_order():
    model = TwoLists()
    assert discover(model).blocks == [*model.first, *model.second]


def test_a_nested_trunk_is_the_longest_list_of_its_level():
    model = Nested()
    assert discover(model).blocks == list(model.decoder.layers)


def test_refiners_beside_the_trunk_are_no_part_of_it():
    model = Refined()
    found = discover(model)
    assert found.blocks == list(model.blocks)
    assert [s.name for s in found.sublayers] == [
        "attn:0", "mlp:0", "attn:1", "cross_attn:1", "mlp:1", "attn:2", "mlp:2",
    ]  # fmt: skip
    assert found.sublayers[0].module is model.blocks[0].attn1
    assert found.sublayers[3].module is model.blocks[1].attn2


def test_lists_that_prepare_the_trunks_input_are_no_part_of_it():
    model = Aside()
    assert discover(model).blocks == list(model.layers)
    assert len(names(model, "attn")) == 3


def test_discovery_changes_nothing(unet):
    before = {name: dict(vars(m)) for name, m in unet.named_modules()}
    discover(unet)
    assert all(vars(m) == before[name] for name, m in unet.named_modules())


def test_flux_has_both_streams_and_fused_blocks(flux):
    found = discover(flux)
    assert len(found.blocks) == 5
    expected = [f"{k}:{i}" for i in range(2) for k in ("attn", "mlp", "mlp.context")]
    assert [s.name for s in found.sublayers] == [*expected, "fused:2", "fused:3", "fused:4"]
    single = flux.single_transformer_blocks[0]
    assert found.sublayers[6].module is single.proj_out
    assert found.sublayers[6].feeders == (single.proj_mlp, single.act_mlp, single.attn)


def test_pixart_trunk():
    model = PixArtTransformer2DModel(
        num_attention_heads=1, attention_head_dim=4, in_channels=2, num_layers=3, cross_attention_dim=4,
        caption_channels=4, sample_size=4, norm_num_groups=1,
    )  # fmt: skip
    assert discover(model).blocks == list(model.transformer_blocks)
    assert len(names(model, "sublayers")) == 9


def test_unet_skips_are_counted_from_the_outermost(unet):
    skips = discover(unet).skips
    # conv_in; 2 stages and a downsampler; 2 stages.
    assert len(skips) == 1 + 3 + 2
    assert [s.channels for s in skips] == [8, 8, 8, 8, 16, 16]
    down, up = unet.down_blocks, unet.up_blocks
    assert skips[0].sink is up[1].resnets[2]
    assert skips[0].inside == (*down, unet.mid_block, up[0], *pairs(up[1], 2))
    assert skips[1].sink is up[1].resnets[1]
    assert skips[1].inside[:2] == (down[0].resnets[1], down[0].attentions[1])
    assert skips[5].sink is up[0].resnets[0]
    assert skips[5].inside == (unet.mid_block,)
    assert names(unet, "auto") == names(unet, "bracket") == ["bracket:0"]
    assert names(unet, "bracket:5") == ["bracket:5"]


def pairs(block, count):
    return [m for n in range(count) for m in (block.resnets[n], block.attentions[n])]


def test_first_skip_has_nothing_before_its_first_block(unet):
    # Everything from the first down block on lies between conv_in and the last stage.
    inside = discover(unet).skips[0].inside
    assert unet.conv_in not in inside
    assert inside[0] is unet.down_blocks[0] or inside[0] is unet.down_blocks[0].resnets[0]


def test_unconditional_unet_with_attention():
    model = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
    )
    skips = discover(model).skips
    assert len(skips) == 1 + 2 + 2 + 1
    assert discover(model).blocks == []
    # What really reaches each sink ends with its skip's channels.
    seen = []
    for skip in skips:
        skip.sink.register_forward_pre_hook(lambda m, args, s=skip: seen.append((s, args[0].shape[1])))
    with torch.no_grad():
        model(torch.zeros(1, 3, 8, 8), 1)
    assert [s for s, _ in seen] == skips[::-1]
    assert all(channels > skip.channels for skip, channels in seen)


def test_long_skips_between_blocks_are_paired_from_the_inside_out():
    found = discover(Skipping(8, [5, 6, 7]))
    assert found.long_skips == [(0, 7), (1, 6), (2, 5)]
    assert found.skips == []
    assert found.available_specs().endswith("bracket:N with N from 0 to 2")
    assert found.select(["auto"]) == [Site("trunk", "trunk", 0, 7)]


@pytest.mark.parametrize(
    "sinks",
    [[], [5], [4, 6], [0, 1], range(4, 8), range(8)],
    ids=["none", "no tail", "a gap", "at the front", "nothing between", "every block"],
)
def test_blocks_with_a_skip_that_are_no_such_tail_join_nothing(sinks):
    found = discover(Skipping(8, sinks))
    assert found.long_skips == []
    with pytest.raises(DcacheError, match="Skipping has none"):
        found.select(["bracket:0"])


def test_a_unet_of_another_shape_has_no_skips():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv_in = nn.Conv2d(1, 1, 1)
            self.down_blocks = nn.ModuleList([Block()])
            self.up_blocks = nn.ModuleList([Block()])

    assert discover(Odd()).skips == []
    assert names(Odd(), "auto") == ["model"]


def test_sublayers_that_blocks_share_are_no_sites():
    model = Flat(lambda: BasicTransformerBlock(cross=False), 3)
    model.blocks[2].ff = model.blocks[0].ff
    structure = discover(model)
    assert [s.name for s in structure.sublayers] == ["attn:0", "attn:1", "mlp:1", "attn:2"]
    assert structure.shared == [model.blocks[0].ff]
