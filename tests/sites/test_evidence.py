"""What is concluded from one call of a block."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
from torch import nn

from dcache.sites.blocks import SUBLAYERS
from dcache.sites.evidence import (
    Use,
    Verdict,
    confirm,
    is_confirmed,
    judge,
    judged,
    named_sublayers,
    sublayers_of,
)
from dcache.sites.sublayers import Part, parts_of
from tests.sites.models import BasicTransformerBlock, FeedForward

MLP = Part("mlp", "ff")
DIRECT: frozenset[str] = frozenset()
# To an output without a detour, and added to the stream itself; or to nothing of a stream.
ADDED = ((DIRECT, frozenset([DIRECT])),)
BESIDE = ((DIRECT, frozenset[frozenset[str]]()),)
GOOD = Use(calls=1, reads_stream=True, outputs=ADDED, added=ADDED)


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
        (replace(GOOD, residual=True), 1, "its own input with something added"),
        (replace(GOOD, multiplies=True), 1, "multiplies a stream"),
        (replace(GOOD, outputs=ADDED + BESIDE), 1, "leaves the block"),
        (replace(GOOD, outputs=(), added=()), 1, "not added to a stream"),
        (replace(GOOD, added=((frozenset(("attn",)), frozenset([DIRECT])),)), 1, "not added to a stream"),
    ],
)
def test_what_differs_is_no_sublayer(use: Use, streams: int, why: str) -> None:
    verdict = judge(MLP, {"ff": use}, streams)
    assert verdict.kind == ""
    assert why in verdict.why


def test_a_stream_goes_on_through_what_is_no_sublayer() -> None:
    attn = Part("attn", "attn")
    # x = attn(x); x + ff(x): each is added to what the other returned, and attn's output to nothing else.
    over_attn = ((DIRECT, frozenset([frozenset(("attn",))])),)
    over_both = ((DIRECT, frozenset([frozenset(("attn", "ff"))])),)
    seen = {
        "attn": replace(GOOD, outputs=over_both, added=over_both),
        "ff": replace(GOOD, outputs=over_attn, added=over_attn),
    }
    assert [verdict.kind for verdict in judged([attn, MLP], seen, 1)] == ["", "mlp"]
    # attn(x) + ff(x): neither is a stream.
    over_ff = ((DIRECT, frozenset([frozenset(("ff",))])),)
    seen["attn"] = replace(GOOD, outputs=over_ff, added=over_ff)
    assert [verdict.kind for verdict in judged([attn, MLP], seen, 1)] == ["", ""]


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
    for change in (
        {"added": ADDED},
        {"outputs": BESIDE},
        {"read_by": frozenset()},
        {"read_by": frozenset("x")},
    ):
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
    monkeypatch.setitem(SUBLAYERS, "tests.BasicTransformerBlock", {"mlp": ("ff",)})
    assert is_confirmed(BasicTransformerBlock())


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        ({"attn", "mlp"}, ["attn", "cross_attn", "mlp"]),
        ({"attn.2"}, ["attn", "attn", "mlp"]),
        ({"cross_attn.2", "mlp"}, ["cross_attn", "cross_attn", "mlp"]),
        ({"fused"}, ["attn", "cross_attn", "mlp"]),
    ],
)
def test_names_of_a_schedule_decide_what_no_call_has_confirmed(names: set[str], kinds: list[str]) -> None:
    block = BasicTransformerBlock()
    assert [part.kind for part in named_sublayers(block, names)] == kinds
    confirm(block, [])
    assert [part.kind for part in named_sublayers(block, names)] == ["attn", "cross_attn", "mlp"]


def test_names_that_a_dropped_sublayer_leaves_to_another_are_found() -> None:
    block = BasicTransformerBlock()
    block.ff_context = FeedForward()
    assert [part.path for part in named_sublayers(block, {"mlp.context"})] == [
        "attn1",
        "attn2",
        "ff",
        "ff_context",
    ]
    assert [part.path for part in named_sublayers(block, {"attn", "mlp"})][2:] == ["ff", "ff_context"]
