"""Sources of random numbers are put back to where they stood."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dcache.intercept.random_states import Draws, global_sources, is_random_source

SOURCES: dict[str, tuple[Any, Callable[[Any], float]]] = {
    "torch": (torch.Generator(), lambda s: float(torch.rand(1, generator=s))),
    "python": (random.Random(1), lambda s: s.random()),
    "numpy": (np.random.default_rng(1), lambda s: s.random()),
    "numpy, old": (np.random.RandomState(1), lambda s: s.random_sample()),
    "python's own": (random, lambda s: s.random()),
    "numpy's own": (np.random, lambda s: s.random()),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_that_is_put_back_draws_the_same_numbers(name: str) -> None:
    source, draw = SOURCES[name]
    draws = Draws(source)
    assert not draws.moved()
    first = draw(source)
    assert draws.moved()
    draws.restore()
    assert not draws.moved()
    assert draw(source) == first


def test_what_is_a_source() -> None:
    assert all(is_random_source(source) for source, _ in list(SOURCES.values())[:4])
    assert not any(map(is_random_source, (1, None, torch.ones(1), [random.Random(1)], iter(()))))
    assert global_sources() == [random, np.random]
