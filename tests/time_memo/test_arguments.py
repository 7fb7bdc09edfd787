"""Tensors in a call's arguments have names."""

from __future__ import annotations

import torch

from dcache.time_memo.arguments import tensors_of
from tests.time_memo.nets import net


def test_positions_get_their_names_and_containers_dotted_ones() -> None:
    a, b, c, d = (torch.ones(1) for _ in range(4))
    named = tensors_of(net(), (a, b), {"pooled": {"x": c, "y": [1, d]}, "flag": "text"})
    assert list(named) == ["sample", "timestep", "pooled.x", "pooled.y.1"]
    assert all(x is y for x, y in zip(named.values(), (a, b, c, d), strict=True))
