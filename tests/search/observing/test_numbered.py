"""Runs that are computed completely, with their evaluations numbered."""

from __future__ import annotations

from typing import Any

import dcache
from dcache.engine.observe import Observer, observe
from dcache.search.observing.numbered import numbered
from tests.engine.tiny_models import Toy, ToyPipe


class Numbers(Observer):
    """Keeps the number of each call's evaluation."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_call(self, call: Any, args: Any, kwargs: Any) -> None:
        """Keep it."""
        self.seen.append(call.index)


def test_all_is_computed_and_numbered_and_the_method_before_it_is_back() -> None:
    pipe = dcache.enable(ToyPipe(Toy()), "interval", interval=3)
    numbers = Numbers()
    with numbered(pipe), observe(pipe.denoiser, numbers):
        # Uncached 8 (t + 1) at t = 4 to 1.
        assert pipe(4) == [40, 32, 24, 16]
        assert dcache.stats(pipe).predicted == 0
    assert numbers.seen == [0, 1, 2, 3]
    pipe(4)
    assert dcache.stats(pipe).predicted == 2
