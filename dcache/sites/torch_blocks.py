"""torch's own transformer layers, whose sublayers are methods.

| layer                     | `attn`      | `cross_attn`  | `mlp`        |
|---------------------------|-------------|---------------|--------------|
| `TransformerDecoderLayer` | `_sa_block` | `_mha_block`  | `_ff_block`  |
| `TransformerEncoderLayer` | `_sa_block` |               | `_ff_block`  |

Where gradients are off, an encoder layer in eval mode runs as one function of C++, which calls neither its
methods nor its parts: then it has no sublayers, and is cached as a block.
"""

from __future__ import annotations

from torch import nn

TORCH_BLOCKS = (nn.TransformerDecoderLayer, nn.TransformerEncoderLayer)
_METHODS = {"attn": "_sa_block", "cross_attn": "_mha_block", "mlp": "_ff_block"}


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
