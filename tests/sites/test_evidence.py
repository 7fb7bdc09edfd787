"""What is concluded from one call of a block."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
from torch import nn

from dcache.sites.blocks import SUBLAYERS
from dcache.sites.evidence import Use, Verdict, confirm, is_confirmed, judge, sublayers_of
from dcache.sites.sublayers import Part, parts_of
from tests.sites.models import BasicTransformerBlock

MLP = Part("mlp", "ff")
GOOD = Use(calls=1, reads_stream=True, added=True)


def test_what_is_called_on_a_stream_and_added_to_one_is_a_sublayer() -> None:
    assert judge(MLP, {"ff": GOOD}, streams=1) == Verdict(MLP, "mlp")
    # One MLP for two streams, or for one in chunks.
    assert judge(MLP, {"ff": replace(GOOD, calls=2)}, streams=1).kind == "mlp"


@pytest.mark.parametrize(
    ("use", "streams", "why"),
    [
        (GOOD, 0, "no output of the block continues an argument"),
        (replace(GOOD, calls=0), 1, "it is not called"),
        (replace(GOOD, calls=2, read_by=frozenset(("ff",))), 1, "called in a loop"),
        (replace(GOOD, plain=False), 1, "more than tensors"),
        (replace(GOOD, reads_stream=False), 1, "reads no stream"),
        (replace(GOOD, leaves=True), 1, "leaves the block"),
        (replace(GOOD, added=False), 1, "not added to a stream"),
    ],
)
def test_what_differs_is_no_sublayer(use: Use, streams: int, why: str) -> None:
    verdict = judge(MLP, {"ff": use}, streams)
    assert verdict.kind == ""
    assert why in verdict.why


@pytest.mark.parametrize("kind", ["attn", "cross_attn"])
@pytest.mark.parametrize("together", [True, False, None])
def test_the_kind_of_an_attention_is_where_its_keys_are_from(kind: str, together: bool | None) -> None:
    part = Part(kind, "attn")
    verdict = judge(part, {"attn": replace(GOOD, keys_of_queries=together)}, 1)
    assert verdict.kind == {True: "attn", False: "cross_attn", None: kind}[together]
    assert bool(verdict.why) == (verdict.kind != kind)


FUSED = Part("fused", "exit", ("attn", "mlp"))


def uses(**feeders: Use) -> dict[str, Use]:
    fed = Use(calls=1, reads_stream=True, read_by=frozenset(("exit",)))
    return {"exit": GOOD, "attn": fed, "mlp": replace(fed, read_by=frozenset(("attn",)))} | feeders


def test_feeders_are_read_by_the_exit_alone() -> None:
    assert judge(FUSED, uses(), 1).kind == "fused"
    for change in ({"added": True}, {"leaves": True}, {"read_by": frozenset()}, {"read_by": frozenset("x")}):
        read_elsewhere = replace(uses()["attn"], **change)
        assert judge(FUSED, uses(attn=read_elsewhere), 1).why == "attn is not read by exit alone"
    assert judge(FUSED, uses(attn=Use()), 1).kind == "fused"


def test_what_a_call_showed_of_a_block_is_known_as_long_as_the_block_lives() -> None:
    block = BasicTransformerBlock()
    first, second, third = parts_of(block)
    assert sublayers_of(block) == (first, second, third)
    assert not is_confirmed(block)
    confirm(block, [Verdict(first, "attn"), Verdict(second, "attn", "why"), Verdict(third, "", "why")])
    assert is_confirmed(block)
    assert sublayers_of(block) == (first, replace(second, kind="attn"))
    # Another block of its class is not known, and a block that changed is not known any more.
    assert sublayers_of(BasicTransformerBlock()) == (first, second, third)
    block.attn2 = nn.Identity()
    assert not is_confirmed(block)
    assert sublayers_of(block) == (first, third)


def test_a_block_that_is_gone_is_forgotten() -> None:
    block = BasicTransformerBlock()
    confirm(block, [])
    gone = weakref.ref(block)
    del block
    gc.collect()
    assert gone() is None


def test_what_a_row_declares_needs_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SUBLAYERS, "BasicTransformerBlock", {"mlp": ("ff",)})
    assert is_confirmed(BasicTransformerBlock())
