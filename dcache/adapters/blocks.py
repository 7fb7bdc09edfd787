"""What block classes do not tell by themselves, as data. A new class of block is one row.

`SUBLAYERS`: where a block's sublayers are, by kind; the output of each is taken before the adaLN gate
multiplies it.
`FUSED`: blocks whose attention and MLP meet in one projection. The exit returns the prediction; the hollow
modules are not run then.
`STREAMS`: the block's outputs by the names of the arguments they continue, needed only where two arguments
of one shape make the outputs ambiguous.
"""

from __future__ import annotations

from typing import NamedTuple


class Fused(NamedTuple):
    """A block with one projection for attention and MLP: names of its exit and of what feeds only it."""

    exit: str
    hollow: tuple[str, ...]


SUBLAYERS: dict[str, dict[str, tuple[str, ...]]] = {
    "BasicTransformerBlock": {"attn": ("attn1",), "cross_attn": ("attn2",), "mlp": ("ff",)},
    "FluxTransformerBlock": {"attn": ("attn",), "mlp": ("ff", "ff_context")},
    "WanTransformerBlock": {"attn": ("attn1",), "cross_attn": ("attn2",), "mlp": ("ffn",)},
}

FUSED: dict[str, Fused] = {
    "FluxSingleTransformerBlock": Fused("proj_out", ("proj_mlp", "act_mlp", "attn")),
}

STREAMS: dict[str, tuple[str, ...]] = {
    "FluxTransformerBlock": ("encoder_hidden_states", "hidden_states"),
    "FluxSingleTransformerBlock": ("encoder_hidden_states", "hidden_states"),
}
