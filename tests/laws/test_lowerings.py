"""L6: two ways to skip the same site give the same output."""

from typing import Any

import pytest
import torch

import dcache
from dcache import methods
from tests.pipelines import SHAPES, Shape

DEEP = [shape for shape in SHAPES.values() if shape.depth]
CASES: list[Any] = [
    pytest.param(shape, sites, codec, order, id=f"{shape}-{sites}-{codec}-{order}")
    for shape in DEEP
    for sites in ("trunk", "run:0-1", "run:1-2", "block")
    for codec in ("value", "delta")
    for order in (0, 1)
] + [
    pytest.param(shape, f"bracket:{level}", "value", order, id=f"{shape}-bracket:{level}-{order}")
    for shape in SHAPES.values()
    for level in range(shape.skips)
    for order in (0, 1)
]


@pytest.mark.parametrize(("shape", "sites", "codec", "order"), CASES)
def test_replaying_every_module_gives_what_the_lowering_gives(
    shape: Shape, sites: str, codec: str, order: int
) -> None:
    method = methods.newton(interval=2, order=order, sites=sites, codec=codec, clock="step")
    outputs, counts = [], []
    for lowering in ("auto", "replay"):
        pipe = dcache.enable(shape.build(), method, lowering=lowering)
        outputs.append(shape.run(pipe))
        stats = dcache.stats(pipe)
        counts.append((stats.computed, stats.predicted, stats.reasons))
    assert counts[0] == counts[1]
    assert counts[0][1] > 0
    if codec == "value":
        assert torch.equal(outputs[0], outputs[1])
    # The deltas of a run add up to the run's delta only as far as rounding goes.
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-4)
