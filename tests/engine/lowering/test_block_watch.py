"""The first call of a block confirms its sublayers; what it refutes is not cached, and said."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

import dcache
from dcache import DcacheWarning, methods
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
