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

EVERY_2 = methods.interval(interval=2, sites="sublayers")


class Block(nn.Module):
    """h -> 5 h: attention and an MLP of 2 h each."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.ff = Attention(), FeedForward()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.attn(x) + self.ff(x)


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
    # The trace names what was confirmed, and replays on a model that was never called.
    schedule, cached = dcache.trace(model), integers(walk(model, [0, 1, 2]))
    fresh = dcache.enable(Toy([Crossed()]), schedule)
    assert integers(walk(fresh, [0, 1, 2])) == cached
    assert dcache.stats(fresh).predicted == 2


def test_compiled_blocks_are_not_watched() -> None:
    model = dcache.enable(Toy([Block()]), EVERY_2, compile={"backend": "eager"})
    assert watched(model) == 0
    dcache.disable(model)
    torch.compiler.reset()


class Projecting(Attention):
    """x -> 2x: attention whose keys are from x, or from something else."""

    def __init__(self, elsewhere: bool) -> None:
        super().__init__()
        self.elsewhere = elsewhere

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.to_q(x)
        self.to_k(torch.full(x.shape, -1.0) if self.elsewhere else x)
        return super().forward(x)


class Reading(Block):
    """h -> 7 h: two attentions that differ in nothing but what their keys are from, which a call shows."""

    def __init__(self, elsewhere: bool = True) -> None:
        super().__init__()
        self.attn, self.attn2 = Projecting(elsewhere), Projecting(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.attn(x) + self.attn2(x) + self.ff(x)


@pytest.mark.parametrize("sites", [["cross_attn"], ["cross_attn", "mlp"], ["cross_attn:0"]])
def test_kinds_that_only_a_call_shows_may_be_asked_for_before_it(sites: list[str]) -> None:
    rule = methods.interval(interval=2, sites=sites)
    known = dcache.disable(walked(dcache.enable(Toy([Reading()]), EVERY_2)))
    expected = integers(walk(dcache.enable(known, rule), [0, 1, 2, 3]))
    names = [site.name for site in session_of(known).binding.sites]
    assert names[0] == "cross_attn:0"
    fresh = dcache.enable(Toy([Reading()]), rule)
    assert integers(walk(fresh, [0, 1, 2, 3])) == expected
    assert [site.name for site in session_of(fresh).binding.sites] == names
    # And a trace of it loads on a model that was never called.
    replaying = dcache.enable(Toy([Reading()]), dcache.trace(fresh))
    assert integers(walk(replaying, [0, 1, 2, 3])) == expected


def test_a_kind_that_the_call_does_not_show_is_refused_then() -> None:
    both = dcache.enable(Toy([Reading(elsewhere=False)]), methods.interval(interval=2, sites=["cross_attn"]))
    with pytest.raises(DcacheError, match="'cross_attn' does not exist"):
        walk(both, [0])
    assert not any(intercepts_of(m) for m in both.modules())


def walked(model: nn.Module) -> nn.Module:
    """The model after a run."""
    walk(model, [0, 1])
    return model
