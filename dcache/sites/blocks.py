"""Tables of block classes: properties that cannot be read off a module. A new class of block is one row.

Rows are keyed by package and class (`key_of`), for other packages have classes of the same names.

- `SUBLAYERS`: the attributes of a block's sublayers, by kind, where `dcache.sites.sublayers` does not find
  them, or takes them for another kind: the attentions of LTX are of one class, under names that say nothing.
  The output of a sublayer is taken before the adaLN gate multiplies it.
- `FUSED`: the same for blocks whose attention and MLP share one output projection. On a prediction the
  projection's output is predicted, and the modules that feed it do not run.
- `STREAMS`: for each output of a block, the argument that it continues. A row is needed only where two
  arguments of one shape make the outputs ambiguous.
- `ASIDE`: attributes with lists of blocks that prepare the trunk's input or run beside it, and do not belong
  to the trunk.

The sublayers of torch's own transformer layers are methods: `_sa_block`, `_mha_block` and `_ff_block`. Where
gradients are off, an encoder layer in eval mode runs as one function of C++, which calls neither its methods
nor its parts: then it has no sublayers, and is cached as a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from dcache.errors import DcacheError

TORCH_BLOCKS = (nn.TransformerDecoderLayer, nn.TransformerEncoderLayer)
_METHODS = {"attn": "_sa_block", "cross_attn": "_mha_block", "mlp": "_ff_block"}


class Fused(NamedTuple):
    """A block with one output projection for attention and MLP.

    Attributes:
        exit: attribute of the projection.
        feeders: attributes of the modules whose outputs only the projection reads.
    """

    exit: str
    feeders: tuple[str, ...]


SUBLAYERS: dict[str, dict[str, tuple[str, ...]]] = {
    "diffusers.FluxTransformerBlock": {"attn": ("attn",), "mlp": ("ff", "ff_context")},
    "diffusers.LTX2VideoTransformerBlock": {
        "attn": ("attn1", "audio_attn1"),
        "cross_attn": ("attn2", "audio_attn2", "audio_to_video_attn", "video_to_audio_attn"),
        "mlp": ("ff", "audio_ff"),
    },
    "diffusers.AuraFlowJointTransformerBlock": {"attn": ("attn",), "mlp": ("ff", "ff_context")},
    "diffusers.AuraFlowSingleTransformerBlock": {"attn": ("attn",), "mlp": ("ff",)},
    "diffusers.ChromaTransformerBlock": {"attn": ("attn",), "mlp": ("ff", "ff_context")},
    "diffusers.LTXVideoTransformerBlock": {"attn": ("attn1",), "cross_attn": ("attn2",), "mlp": ("ff",)},
}

FUSED: dict[str, Fused] = {}

STREAMS: dict[str, tuple[str, ...]] = {
    "diffusers.AuraFlowJointTransformerBlock": ("encoder_hidden_states", "hidden_states"),
    "diffusers.ChromaTransformerBlock": ("encoder_hidden_states", "hidden_states"),
    "diffusers.Flux2TransformerBlock": ("encoder_hidden_states", "hidden_states"),
    "diffusers.FluxTransformerBlock": ("encoder_hidden_states", "hidden_states"),
    "diffusers.FluxSingleTransformerBlock": ("encoder_hidden_states", "hidden_states"),
    "diffusers.JointTransformerBlock": ("encoder_hidden_states", "hidden_states"),
    "diffusers.QwenImageTransformerBlock": ("encoder_hidden_states", "hidden_states"),
}

ASIDE: set[str] = {
    "audio_text_transformer_blocks",
    "caption_projection",
    "context_refiner",
    "face_adapter",
    "noise_refiner",
    "perceiver_cross_attention",
    "refiner_blocks",
    "siglip_refiner",
    "text_conv_layer",
    "text_transformer_blocks",
    "txt_mode_blocks",
    "vace_blocks",
    "video_text_transformer_blocks",
}


def key_of(kind: type) -> str:
    """The key of a class's rows: its package and its name."""
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


def register_block(
    block: type | str,
    sublayers: Mapping[str, tuple[str, ...]] | None = None,
    fused: Fused | None = None,
    streams: tuple[str, ...] | None = None,
) -> None:
    """Declare a class of blocks: one row in each table for which a value is given.

    Args:
        block: the class, or its package and name, "my_package.MyBlock".
        sublayers: kind ("attn", "cross_attn", "mlp") -> attributes of the sublayers.
        fused: for a block with one output projection for attention and MLP.
        streams: the argument that each output continues, in the outputs' order.

    Raises:
        DcacheError: nothing is declared, the class is declared differently already, or has no package.
    """
    name = key_of(block) if isinstance(block, type) else block
    if "." not in name:
        raise DcacheError(
            f"{name!r} is a class's name without its package: expected the class itself, or "
            f"'my_package.{name}'"
        )
    rows: list[tuple[str, dict[str, Any], Any]] = [
        ("sublayers", SUBLAYERS, None if sublayers is None else dict(sublayers)),
        ("fused", FUSED, fused),
        ("streams", STREAMS, streams),
    ]
    given = [row for row in rows if row[2] is not None]
    if not given:
        raise DcacheError(f"{name} needs sublayers=, fused= or streams=, and has none")
    for table_name, table, row in given:
        if table.get(name, row) != row:
            raise DcacheError(
                f"{table_name} of {name} are declared already, as {table[name]}: nothing was changed"
            )
    for _, table, row in given:
        table[name] = row


def register_aside(attribute: str) -> None:
    """Declare that lists of blocks under this attribute do not belong to the trunk."""
    ASIDE.add(attribute)


def methods_of(layer: nn.Module) -> dict[str, str]:
    """Kind -> the method that is this sublayer, of one of torch's transformer layers.

    Nothing for an encoder layer that may run as one function. A subclass with a forward of its own has those
    that this calls by name.
    """
    if isinstance(layer, nn.TransformerEncoderLayer) and runs_as_one(layer):
        return {}
    names = _called_names(layer)
    return {kind: name for kind, name in _METHODS.items() if hasattr(layer, name) and name in names}


def runs_as_one(layer: nn.TransformerEncoderLayer) -> bool:
    """Whether torch may run an encoder layer as one function.

    It is batch first, with an even number of heads, and ReLU or GELU.
    """
    attention = layer.self_attn
    return (
        type(layer).forward is nn.TransformerEncoderLayer.forward
        and attention.batch_first
        and attention._qkv_same_embed_dim
        and attention.num_heads % 2 == 0
        and bool(layer.activation_relu_or_gelu)
    )


def _called_names(layer: nn.Module) -> tuple[str, ...]:
    code = getattr(type(layer).forward, "__code__", None)
    return () if code is None else code.co_names
