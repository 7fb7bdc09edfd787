"""The first call of a block confirms its sublayers; what it refutes is not cached, and said."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, methods
from dcache.engine.session import session_of
from dcache.intercept.module_call import intercepts_of
from dcache.sites.discovery import discover
from tests.engine.tiny_models import Attention, FeedForward, Toy, integers, walk

ALWAYS = methods.interval(interval=1, sites="sublayers")
EVERY_2 = methods.interval(interval=2, sites="sublayers")


class Block(nn.Module):
    """h -> 5 h: attention and an MLP of 2 h each."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.ff = Attention(), FeedForward()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.attn(x) + self.ff(x)


class Scaled(Block):
    """h -> 6 h h: its MLP is a scale of the stream, and is added to nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.attn(x)) * self.ff(x)


def enabled(block: type, method: Any) -> nn.Module:
    return dcache.enable(Toy([block() for _ in range(2)]), method)


def watched(model: nn.Module) -> int:
    return sum(link.name == "watch" for m in model.modules() for link in intercepts_of(m))


def test_a_block_is_watched_until_its_first_call() -> None:
    model = enabled(Block, EVERY_2)
    assert watched(model) == 2
    plain = integers(walk(Toy([Block() for _ in range(2)]), [0, 1, 2, 3]))
    # h = t + 1. Predicted, each sublayer returns what it did at the last evaluation: h + 4 (t), twice.
    assert integers(walk(model, [0, 1, 2, 3])) == [plain[0], (2 + 4) + 4 * 5, plain[2], (4 + 12) + 4 * 15]
    assert watched(model) == 0
    dcache.disable(model)
    assert not any(intercepts_of(m) for m in model.modules())
    # What is known of a block needs no second watch.
    assert watched(dcache.enable(model, EVERY_2)) == 0


def test_what_the_call_refutes_is_dropped_and_said_once() -> None:
    model = enabled(Scaled, EVERY_2)
    assert len(session_of(model).binding.regions) == 4
    with pytest.warns(DcacheWarning, match="Scaled.ff looks like mlp, and its output leaves") as caught:
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
        "Nothing.attn looks like attn, and its output leaves the block without being added to a stream",
        "Nothing.ff looks like mlp, and its output leaves the block without being added to a stream",
        "taylorseer caches sublayers, and none are found in Toy",
    ]
    assert [site.name for site in session_of(model).binding.sites] == ["block:0", "block:1"]
    assert "sites='block'" in dcache.stats(model).method


class Crossed(Block):
    """h -> 5 h: its attention says that it is cross-attention, and looks at itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attn.is_cross_attention = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The projections are called, as a processor would.
        self.attn.register_forward_pre_hook(project)
        return super().forward(x)


def project(module: nn.Module, args: Any) -> None:
    if not isinstance(args[0], torch.Tensor):
        return
    module.to_q(args[0])
    module.to_k(args[0])


def test_a_kind_that_the_call_shows_to_be_another_is_that_one_without_a_word() -> None:
    model = Toy([Crossed()])
    assert [s.name for s in discover(model).sublayers] == ["cross_attn:0", "mlp:0"]
    dcache.enable(model, methods.taylorseer(interval=2, warmup=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DcacheWarning)
        walk(model, [0, 1, 2])
    assert [site.name for site in session_of(model).binding.sites] == ["attn:0", "mlp:0"]
    assert [s.name for s in discover(model).sublayers] == ["attn:0", "mlp:0"]


def test_compiled_blocks_are_not_watched() -> None:
    model = dcache.enable(Toy([Block()]), EVERY_2, compile={"backend": "eager"})
    assert watched(model) == 0
    dcache.disable(model)
    torch.compiler.reset()
