"""A call that shows other sublayers than were bound is made again under those that it confirmed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, methods
from dcache.engine.session import session_of
from dcache.intercept.module_call import intercepts_of
from tests.engine.tiny_models import Attention, Double, FeedForward, Toy, integers, walk

ALWAYS = methods.interval(interval=1, sites="sublayers")
EVERY_2 = methods.interval(interval=2, sites="sublayers")


class Block(nn.Module):
    """Attention and an MLP, which subclasses call."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.ff = Attention(), FeedForward()


class Scaled(Block):
    """h -> 6 h h: its MLP is a scale of the stream, and is added to nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.attn(x)) * self.ff(x)


def enabled(block: type, method: Any) -> nn.Module:
    return dcache.enable(Toy([block() for _ in range(2)]), method)


def test_what_the_call_refutes_is_dropped_and_said_once() -> None:
    model = enabled(Scaled, EVERY_2)
    assert len(session_of(model).binding.regions) == 4
    with pytest.warns(DcacheWarning, match="Scaled.ff looks like mlp, and its output multiplies") as caught:
        first = integers(walk(model, [0, 1, 2]))
    assert len(caught) == 1
    assert [site.name for site in session_of(model).binding.sites] == ["attn:0", "attn:1"]
    stats, schedule = dcache.stats(model), dcache.trace(model)
    assert (stats.computed, stats.predicted) == (4, 2)
    assert schedule.components[""].sites == ("attn:0", "attn:1")
    # The first run is like those that follow it, and like its own trace on a model that is not known yet.
    assert integers(walk(model, [0, 1, 2])) == first
    assert integers(walk(enabled(Scaled, schedule), [0, 1, 2])) == first


def test_everything_computed_is_the_model_itself_whatever_is_refuted() -> None:
    with pytest.warns(DcacheWarning, match="Scaled.ff"):
        computed = integers(walk(enabled(Scaled, ALWAYS), [0, 1, 2]))
    assert computed == integers(walk(Toy([Scaled() for _ in range(2)]), [0, 1, 2]))


def test_where_nothing_is_left_of_sites_that_were_asked_for_caching_is_refused() -> None:
    model = enabled(Scaled, methods.interval(interval=2, sites="mlp"))
    with (
        pytest.warns(DcacheWarning, match="Scaled.ff"),
        pytest.raises(DcacheError, match="'mlp' does not exist"),
    ):
        walk(model, [0, 1])
    assert not any(intercepts_of(m) for m in model.modules())


class Nothing(Block):
    """Neither is added."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.attn(x) * self.ff(x)


def test_where_nothing_is_left_of_default_sites_the_next_larger_ones_are_cached() -> None:
    model = enabled(Nothing, methods.taylorseer(interval=2, warmup=1, order=1))
    with pytest.warns(DcacheWarning) as caught:
        walk(model, [0, 1, 2])
    assert [str(w.message).partition(":")[0] for w in caught] == [
        "Nothing.attn looks like attn, and its output multiplies a stream",
        "Nothing.ff looks like mlp, and its output multiplies a stream",
        "taylorseer caches sublayers, and none are found in Toy",
    ]
    assert [site.name for site in session_of(model).binding.sites] == ["block:0", "block:1"]
    assert "sites='block'" in dcache.stats(model).method


@pytest.mark.filterwarnings("ignore:the dynamic rule's probe", "ignore:Nothing.attn looks like attn")
def test_a_rule_whose_probe_was_refuted_looks_at_the_blocks_input_from_the_first_evaluation_on() -> None:
    # What a block without attention is given changes by 1/5, then by 2/5 since the last compute: see
    # tests/engine/lowering/test_probe.py.
    method = methods.teacache(threshold=0.3, coefficients=(1.0, 0.0), last=False)
    known = dcache.enable(Toy([Double(), Double()]), method)
    walk(known, [4, 3, 2, 1])
    model = enabled(Nothing, method)
    walk(model, [4, 3, 2, 1])
    rows = dcache.trace(model).components[""].rows
    assert rows == dcache.trace(known).components[""].rows
    assert dcache.stats(model).steps == 4
    first = integers(walk(model, [4, 3, 2, 1]))
    assert integers(walk(dcache.enable(Toy(list(model.blocks)), method), [4, 3, 2, 1])) == first


def test_random_numbers_go_on_as_if_the_call_was_made_once() -> None:
    plain, model = Toy([Scaled()]), enabled(Scaled, ALWAYS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        walk(plain, [0])
        expected = torch.rand(3)
        torch.manual_seed(0)
        with pytest.warns(DcacheWarning, match="Scaled.ff"):
            walk(model, [0])
        assert torch.equal(torch.rand(3), expected)
