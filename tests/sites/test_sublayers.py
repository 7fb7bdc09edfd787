"""Sublayers by structure: of the families, in integers from their configurations, and of toys."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from torch import nn

from dcache.sites.blocks import SUBLAYERS
from dcache.sites.discovery import discover
from dcache.sites.sublayers import Part, is_attention, is_holder, parts_of, suffixes
from tests.families import FAMILIES
from tests.pipelines import SHAPES
from tests.sites.models import Attention, BasicTransformerBlock, FeedForward
from tests.zoo.entry import Entry
from tests.zoo.registry import ENTRIES

ZOO = {entry.name: entry for entry in ENTRIES}


def counts(model: nn.Module) -> dict[str, int]:
    return dict(Counter(sublayer.kind for sublayer in discover(model).sublayers))


def blocks(**kinds: int) -> dict[str, int]:
    return {kind: count for kind, count in kinds.items() if count}


# Families --------------------------------------------------------------------------------------------


def double_and_single(config: Any) -> dict[str, int]:
    """Of FLUX's form: joint attention and an MLP for each stream; then attention and MLP under one exit."""
    return blocks(attn=config.num_layers, mlp=2 * config.num_layers, fused=config.num_single_layers)


def joint(config: Any) -> dict[str, int]:
    """One attention for both streams, an MLP for each."""
    return blocks(attn=config.num_layers, mlp=2 * config.num_layers)


def single(config: Any) -> dict[str, int]:
    """One attention and one MLP in each block."""
    return blocks(attn=config.num_layers, mlp=config.num_layers)


def crossed(config: Any) -> dict[str, int]:
    """The same with cross-attention between them."""
    return blocks(attn=config.num_layers, cross_attn=config.num_layers, mlp=config.num_layers)


# Pipeline -> what its configuration says. Kandinsky calls its depth by another name.
BY_CONFIG: dict[str, Any] = {
    "QwenImage21Pipeline": single,
    "Krea2Pipeline": single,
    "NucleusMoEImagePipeline": single,
    "ErnieImagePipeline": single,
    "Ideogram4Pipeline": single,
    "GlmImagePipeline": single,
    "ConsisIDPipeline": single,
    "OmniGenPipeline": single,
    "OvisImagePipeline": double_and_single,
    "LongCatImagePipeline": double_and_single,
    "HunyuanImagePipeline": double_and_single,
    "MotifVideoPipeline": double_and_single,
    "BriaPipeline": double_and_single,
    "FluxPipeline": double_and_single,
    "Flux2Pipeline": double_and_single,
    "ChromaPipeline": double_and_single,
    "HunyuanVideoPipeline": double_and_single,
    "QwenImagePipeline": joint,
    "JoyImageEditPipeline": joint,
    "SanaVideoPipeline": crossed,
    "AnyFlowPipeline": crossed,
    "Cosmos2TextToImagePipeline": crossed,
    "HeliosPipeline": crossed,
    "WanPipeline": crossed,
    "LTXPipeline": crossed,
    "Kandinsky5T2IPipeline": lambda c: blocks(
        attn=c.num_visual_blocks, cross_attn=c.num_visual_blocks, mlp=c.num_visual_blocks
    ),
    # Video, audio, and each looks at the other.
    "Kandinsky6TI2VAPipeline": lambda c: blocks(
        attn=2 * c.num_visual_blocks, cross_attn=4 * c.num_visual_blocks, mlp=2 * c.num_visual_blocks
    ),
    # The first blocks have an MLP for the text; later ones share one.
    "EasyAnimatePipeline": lambda c: blocks(attn=c.num_layers, mlp=c.num_layers + c.mmdit_layers),
}


@pytest.mark.parametrize("name", BY_CONFIG)
@pytest.mark.filterwarnings("ignore")
def test_what_is_found_is_what_the_configuration_says(name: str) -> None:
    entry: Entry = ZOO[name]
    model = entry.pipeline().transformer
    assert counts(model) == BY_CONFIG[name](model.config)


@pytest.mark.parametrize("shape", [*SHAPES.values(), *FAMILIES.values()], ids=str)
def test_the_kinds_of_every_family_are_found(shape: Any) -> None:
    found = discover(shape.denoiser(shape.build())).sublayers
    assert {s.kind for s in found} >= set(shape.sublayers)
    assert len({s.name for s in found}) == len(found)


# Toys ------------------------------------------------------------------------------------------------


class Holder(nn.Module):
    """Children by name."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)


def found(**children: nn.Module) -> dict[str, str]:
    return {part.path: part.kind for part in parts_of(Holder(**children))}


def test_a_number_in_a_name_is_no_kind() -> None:
    assert found(attn1=Attention(), attn2=Attention(), ff=FeedForward()) == {
        "attn1": "attn",
        "attn2": "attn",
        "ff": "mlp",
    }
    assert found(attn2=Attention(context=6))["attn2"] == "cross_attn"


@pytest.mark.parametrize("says", [True, False])
def test_what_the_module_says_of_itself_counts_more_than_its_widths(says: bool) -> None:
    attention = Attention(context=6 if not says else None)
    attention.is_cross_attention = says
    assert found(attn=attention) == {"attn": "cross_attn" if says else "attn"}
    # OmniGen's self-attention says that it is none.
    assert found(self_attn=attention) == {"self_attn": "attn"}
    assert found(text_cross_attn=attention) == {"text_cross_attn": "cross_attn"}


def test_an_mlp_leads_out_of_the_streams_width_and_back_into_it() -> None:
    no_mlps = {
        "modulation": nn.Sequential(nn.SiLU(), nn.Linear(4, 24)),
        "time": nn.Sequential(nn.Linear(7, 4), nn.SiLU(), nn.Linear(4, 24)),
        "other_width": FeedForward(5),
        "open": nn.Sequential(nn.Linear(4, 16), nn.Linear(7, 4)),
        "plain": nn.Linear(4, 4),
    }
    gated = nn.Sequential(nn.Linear(4, 32), nn.GLU(), nn.Linear(16, 4))
    experts = nn.ModuleList(FeedForward() for _ in range(3))
    convolutions = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1))
    mlps = {"gated": gated, "mixture": Holder(gate=nn.Linear(4, 3), experts=experts), "conv": convolutions}
    assert found(attn=Attention(), **no_mlps, **mlps) == {"attn": "attn"} | dict.fromkeys(mlps, "mlp")
    # Without attention the stream's width is not known.
    assert found(**mlps) == {}


def test_a_projection_of_attention_and_mlp_together_is_fused() -> None:
    children = {
        "norm": nn.LayerNorm(4),
        "proj_mlp": nn.Linear(4, 12),
        "act_mlp": nn.GELU(),
        "attn": Attention(out=False),
        "proj_out": nn.Linear(16, 4),
    }
    assert parts_of(Holder(**children)) == (Part("fused", "proj_out", ("proj_mlp", "act_mlp", "attn")),)
    gated = children | {"proj_mlp": nn.Linear(4, 24)}
    assert [part.kind for part in parts_of(Holder(**gated))] == ["fused"]
    other = children | {"proj_out": nn.Linear(15, 4)}
    assert [part.kind for part in parts_of(Holder(**other))] == ["attn"]


def test_one_module_for_attention_and_mlp_is_fused_itself() -> None:
    parallel = Holder(to_qkv_mlp_proj=nn.Linear(4, 28), to_out=nn.Linear(20, 4))
    assert is_attention(parallel)
    assert found(attn=parallel) == {"attn": "fused"}


def test_sublayers_of_inner_blocks_are_found_and_those_inside_sublayers_are_not() -> None:
    inner = BasicTransformerBlock()
    assert [part.path for part in parts_of(Holder(block=inner))] == ["block.attn1", "block.attn2", "block.ff"]
    nested = Attention()
    nested.inner = Attention()
    assert found(attn=nested) == {"attn": "attn"}
    # A block that is attention itself has none.
    assert parts_of(Attention()) == ()


def test_a_wrapped_layer_is_a_projection_as_before() -> None:
    lora = Holder(base_layer=nn.Linear(4, 4), lora_A=nn.Linear(4, 2), lora_B=nn.Linear(2, 4))
    lora.in_features, lora.out_features = 4, 4
    attention = Attention()
    attention.to_q = lora
    assert found(attn=attention, adapter=lora) == {"attn": "attn"}


def test_a_quantised_layer_keeps_its_weights_in_a_part_and_is_a_projection() -> None:
    quantised = Holder(packed=nn.Identity())
    quantised.in_features, quantised.out_features = 4, 4
    attention = Attention()
    attention.to_q = quantised
    assert found(attn=attention) == {"attn": "attn"}
    # A block of convolutions has such attributes as well.
    quantised.packed = nn.Linear(4, 4)
    assert found(attn=attention) == {}


def test_a_holder_has_attention_and_an_mlp_of_its_own() -> None:
    assert is_holder(BasicTransformerBlock())
    assert not is_holder(Holder(attn=Attention()))
    assert not is_holder(Holder(block=BasicTransformerBlock()))


class CrossProcessor:
    """Its name says what its attention is."""


def test_what_changes_a_block_changes_its_sublayers(monkeypatch: pytest.MonkeyPatch) -> None:
    block = Holder(attn=Attention(), ff=FeedForward())

    def now() -> dict[str, str]:
        return {part.path: part.kind for part in parts_of(block)}

    assert now() == {"attn": "attn", "ff": "mlp"}
    block.attn.processor = CrossProcessor()
    assert now() == {"attn": "cross_attn", "ff": "mlp"}
    block.attn.is_cross_attention = False
    assert now() == {"attn": "attn", "ff": "mlp"}
    block.ff = nn.Identity()
    assert now() == {"attn": "attn"}
    block.other = block.attn
    del block.attn
    assert now() == {"other": "attn"}
    monkeypatch.setitem(SUBLAYERS, "tests.Holder", {"mlp": ("ff",)})
    assert now() == {"ff": "mlp"}


def names(*paths: str, kind: str = "mlp") -> list[str]:
    parts = [Part(kind, path) for path in paths]
    texts = suffixes(parts)
    return [texts[part] for part in parts]


def test_the_plainest_of_a_kind_needs_no_suffix() -> None:
    assert names("ff", "ff_context") == ["", ".context"]
    assert names("ff_in", "ff") == [".in", ""]
    assert names("img_mlp", "txt_mlp") == ["", ".txt"]
    assert names("attn", "attn2", kind="attn") == ["", ".2"]
    assert names("block.ff_i", "block.ff_t") == ["", ".t"]
    assert names("video.self_attention", "audio.self_attention", kind="attn") == ["", ".audio"]
    assert names("a.attn_x", "b.attn", "a_b.attn", kind="attn") == ["", ".b", ".a_b"]
    assert len(set(names("x.ff", "y.ff", "z.y.ff", "y_2.ff"))) == 4
