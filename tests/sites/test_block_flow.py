"""Following one call of a block: what each sublayer reads, and what becomes of its output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from dcache.sites.block_flow import BlockFlow
from dcache.sites.sublayers import parts_of
from tests.sites.models import Attention, FeedForward

X, TEXT, TEMB = torch.randn(2, 3, 4), torch.randn(2, 5, 6), torch.randn(2, 1, 4)


class Block(nn.Module):
    """Attention, cross-attention and an MLP under gates, as diffusers writes them, and their variations."""

    def __init__(self, **made: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.attn = made.get("attn", Attention())
        self.attn2 = made.get("attn2", Attention(context=6))
        self.ff = made.get("ff", FeedForward())

    def forward(self, x: torch.Tensor, text: torch.Tensor, temb: torch.Tensor) -> Any:
        shift, gate = temb * 2, temb + 1
        x = x + gate * self.attn(self.norm(x) * (1 + gate) + shift)
        x = x + self.attn2(self.norm(x), text)
        return torch.addcmul(x, gate, self.norm(self.ff(x)) + shift)


def verdicts(block: nn.Module, *args: torch.Tensor) -> dict[str, tuple[str, str]]:
    flow = BlockFlow(block, parts_of(block))
    with torch.no_grad():
        output = flow.run(block, args or (X, TEXT, TEMB), {})
        expected = block(*args or (X, TEXT, TEMB))
    assert all(torch.equal(a, b) for a, b in zip(leaves(output), leaves(expected), strict=True))
    # Nothing stays on the modules.
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in block.modules())
    return {v.part.path: (v.kind, v.why) for v in flow.verdicts()}


def leaves(output: Any) -> list[torch.Tensor]:
    return [output] if isinstance(output, torch.Tensor) else [x for x in output if x is not None]


def made(forward: Callable[..., Any], **parts: nn.Module) -> nn.Module:
    """A block with another forward."""
    return type("Made", (Block,), {"forward": forward})(**parts)


def test_gated_sublayers_of_a_block_are_what_they_look_like() -> None:
    assert verdicts(Block()) == {"attn": ("attn", ""), "attn2": ("cross_attn", ""), "ff": ("mlp", "")}


def test_what_is_added_in_place_or_projected_and_normed_before_is_added_too() -> None:
    def forward(self, x, text, temb):
        x = x.clone()
        x += temb * self.norm(self.attn(x)).transpose(0, 1).transpose(0, 1)
        x[:, :2] = x[:, :2] + self.attn2(x, text)[:, :2].float()
        return x.add_(torch.nn.functional.linear(self.ff(x), torch.eye(4)))

    assert {kind for kind, _ in verdicts(made(forward)).values()} == {"attn", "cross_attn", "mlp"}


def test_keys_of_another_source_make_cross_attention_and_keys_of_ones_own_do_not() -> None:
    class ToItself(Attention):
        """It says that it is cross-attention."""

        is_cross_attention = True

    class ToOthers(Attention):
        is_cross_attention = False

    block = made(
        lambda self, x, text, temb: self.attn2(x, temb) + self.ff(x) + self.attn(x) + x,
        attn=ToItself(),
        attn2=ToOthers(),
    )
    found = verdicts(block)
    assert (found["attn"][0], found["attn2"][0]) == ("attn", "cross_attn")
    assert found["attn"][1] == "its keys are from what its queries are from"
    assert found["attn2"][1] == "its keys are from something else than its queries"


@pytest.mark.parametrize("own_first", [True, False])
def test_keys_of_the_stream_and_of_a_text_together_are_joint_attention(own_first: bool) -> None:
    def forward(self, x, text, temb):
        both = [x, temb.expand(-1, 7, -1)]
        return x + self.attn(x, torch.cat(both if own_first else both[::-1], 1))

    assert verdicts(made(forward))["attn"] == ("attn", "")


def test_what_is_not_added_to_a_stream_is_no_sublayer() -> None:
    def forward(self, x, text, temb):
        # A replaced stream, a gate's shift, and an output beside the stream.
        return self.norm(self.attn(x)), x * (temb + self.attn2(x, text)), self.ff(x)

    found = verdicts(made(forward))
    assert found["attn"] == ("", "its output leaves the block without being added to a stream")
    assert found["ff"] == ("", "its output leaves the block without being added to a stream")

    def mixed(self, x, text, temb):
        return x * self.attn(x).mean() + self.attn2(x, text)

    assert verdicts(made(mixed))["attn2"][0] == "cross_attn"


def test_what_multiplies_a_stream_and_is_read_no_more_is_no_sublayer() -> None:
    def forward(self, x, text, temb):
        scale = self.ff(x).sigmoid()
        return x + self.attn(x * scale)

    assert verdicts(made(forward))["ff"] == ("", "its output multiplies a stream")


class Residual(FeedForward):
    """Adds its own input."""

    def forward(self, x):
        return x + super().forward(x)


RESIDUAL, SCALE = "its output is its own input with something added", "its output multiplies a stream"
NOT_ADDED, LEAVES = (
    "its output is not added to a stream",
    "its output leaves the block without being added to a stream",
)
# What a block does with x, and what follows from it for its attention and its MLP, "" if they are sublayers.
FORWARDS = {
    "replaced first": (lambda s, x: (x := s.attn(s.norm(x))) + s.ff(s.norm(x)), LEAVES, ""),
    "replaced last": (lambda s, x: s.ff(x + s.attn(s.norm(x))), "", LEAVES),
    "both replaced": (lambda s, x: s.ff(s.attn(x)), LEAVES, LEAVES),
    "no stream": (lambda s, x: s.attn(x) + s.ff(x), LEAVES, LEAVES),
    "scale first": (lambda s, x: (x := x * s.attn(x).sigmoid()) + s.ff(x), SCALE, ""),
    "scale last": (lambda s, x: (x := x + s.attn(x)) * (1 + s.ff(x)), "", SCALE),
    "scale added": (lambda s, x: x + s.norm(x) * s.attn(x) + s.ff(x), SCALE, ""),
    "gate of the other": (lambda s, x: x + s.attn(x) * s.ff(x.mean(1, keepdim=True)), "", SCALE),
    "gated by itself": (lambda s, x: x + s.attn(x) * s.norm.weight + s.ff(x), "", ""),
    "read alone": (lambda s, x: x + s.ff(s.norm(x) + s.attn(x)), NOT_ADDED, ""),
    "before the sum": (lambda s, x: x + (s.attn(x) + s.ff(x)), "", ""),
    "post-norm": (lambda s, x: s.norm((x := s.norm(x + s.attn(x))) + s.ff(x)), "", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", FORWARDS)
def test_a_sublayer_is_added_to_a_stream_wherever_it_stands(name: str) -> None:
    forward, attn, ff = FORWARDS[name]
    found = verdicts(made(lambda self, x, text, temb: forward(self, x)))
    assert (found["attn"][1], found["ff"][1]) == (attn, ff)


@pytest.mark.parametrize(
    ("forward", "attn"),
    [
        (lambda s, x: s.ff(x + s.attn(x)), ""),
        (lambda s, x: x + s.ff(s.attn(x)), ""),
        (lambda s, x: (x := s.ff(x)) + s.attn(x), ""),
    ],
)
def test_what_adds_its_own_input_is_no_sublayer_and_a_stream_goes_through_it(forward: Any, attn: str) -> None:
    found = verdicts(made(lambda self, x, text, temb: forward(self, x), ff=Residual()))
    assert (found["attn"][1], found["ff"][1]) == (attn, RESIDUAL)


def test_a_block_may_return_a_dataclass() -> None:
    @dataclass
    class Output:
        x: torch.Tensor

    block = Block()
    flow = BlockFlow(block, parts_of(block))
    flow.run(lambda *args: Output(block(*args)), (X, TEXT, TEMB), {})
    assert {verdict.kind for verdict in flow.verdicts()} == {"attn", "cross_attn", "mlp"}


def test_an_output_that_the_block_returns_beside_the_stream_is_not_cached() -> None:
    def forward(self, x, text, temb):
        attended = self.attn(x)
        return x + attended, attended

    assert verdicts(made(forward))["attn"] == (
        "",
        "its output leaves the block without being added to a stream",
    )


def test_what_reads_no_stream_or_is_not_called_is_no_sublayer() -> None:
    found = verdicts(made(lambda self, x, text, temb: x + self.ff(temb)))
    assert found["ff"] == ("", "it reads no stream of the block")
    assert found["attn"] == ("", "it is not called")


def test_a_loop_is_refuted_and_one_mlp_for_two_streams_is_not() -> None:
    def loop(self, x, text, temb):
        for _ in range(2):
            x = x + self.ff(x)
        return x

    assert verdicts(made(loop))["ff"] == ("", "it is called in a loop, on what it returned before")

    def shared(self, x, text, temb):
        return x + self.ff(x), temb + self.ff(temb)

    assert verdicts(made(shared))["ff"] == ("mlp", "")

    def chunked(self, x, text, temb):
        return x + torch.cat([self.ff(part) for part in x.chunk(3, 1)], 1)

    assert verdicts(made(chunked))["ff"] == ("mlp", "")


def test_an_attention_that_returns_a_tuple_is_added_by_its_parts_and_a_dict_is_refuted() -> None:
    class Tuple(Attention):
        def forward(self, x, context=None):
            return super().forward(x), None

    class Dict(FeedForward):
        def forward(self, x):
            return {"out": super().forward(x)}

    block = made(lambda self, x, text, temb: x + self.attn(x)[0] + self.ff(x)["out"], attn=Tuple(), ff=Dict())
    found = verdicts(block)
    assert found["attn"] == ("attn", "")
    assert found["ff"] == ("", "it returns more than tensors")


def test_a_block_that_continues_no_argument_has_no_sublayers() -> None:
    found = verdicts(made(lambda self, x, text, temb: (x + self.ff(x)).mean(1)))
    assert found["ff"] == ("", "no output of the block continues an argument")


class Single(nn.Module):
    """Attention and MLP under one exit, as FLUX has it."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.proj_mlp, self.act_mlp = Attention(out=False), nn.Linear(4, 12), nn.GELU()
        self.proj_out = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> Any:
        inner = torch.cat([self.attn(x), self.act_mlp(self.proj_mlp(x))], 2)
        return x + 2 * self.proj_out(inner)


def test_feeders_that_only_the_exit_reads_are_found_and_others_refute_it() -> None:
    assert verdicts(Single(), X) == {"proj_out": ("fused", "")}

    class Elsewhere(Single):
        def forward(self, x):
            return super().forward(x) + self.act_mlp(x)

    assert verdicts(Elsewhere(), X)["proj_out"] == ("", "act_mlp is not read by proj_out alone")


def test_streams_that_are_cut_and_joined_inside_are_followed() -> None:
    def forward(self, x, text, temb):
        both = torch.cat([x, temb], 1)
        both = both + self.attn(both)
        first, second = both[:, :3], both[:, 3:]
        return first + self.ff(first), second

    found = verdicts(made(forward))
    assert (found["attn"], found["ff"]) == (("attn", ""), ("mlp", ""))


class Flex(Attention):
    """Attention that compiles what it does with queries, keys and values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from torch.nn.attention.flex_attention import flex_attention

        q, k, v = (part(x).expand(2, 3, 4)[:, None] for part in (self.to_q, self.to_k, self.to_v))
        return self.to_out(flex_attention(q, k, v)[:, 0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_what_compiles_itself_within_the_block_is_called_as_ever() -> None:
    seen = verdicts(made(Block.forward, attn=Flex()))
    assert seen == verdicts(Block())
