"""Another prompt: tables are made at once, with weights that are fetched once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import dcache
from tests.families import FAMILIES
from tests.pipelines import SHAPES, STEPS, Shape

EVERY = {**SHAPES, **FAMILIES}


def prompt(shape: Shape, seed: int) -> dict[str, Any]:
    """Pooled texts of another prompt."""
    given = shape.arguments(next(iter(shape.guidance)))
    return {
        key: torch.randn(value.shape, generator=torch.Generator().manual_seed(seed))
        for key, value in given.items()
        if isinstance(value, torch.Tensor) and "pooled" in key
    }


@pytest.mark.parametrize("name", ["flux", "sd3", "hunyuan_video"])
def test_from_the_fourth_prompt_on_all_tables_are_filled_in_the_first_call(name: str) -> None:
    shape = EVERY[name]
    guidance = next(iter(shape.guidance))
    plain, pipe = shape.build(), dcache.memo(shape.build(), offload="cpu")
    counts = []
    for i in range(4):
        before, over = dcache.memo_report(pipe), prompt(shape, i)
        assert torch.equal(shape.run(pipe, guidance, **over), shape.run(plain, guidance, **over))
        after = dcache.memo_report(pipe)
        n = len(after.modules)
        counts.append(
            (
                (after.hits - before.hits) / n,
                (after.fills - before.fills) / n,
                (after.checks - before.checks) / n,
            )
        )
    # Observed, then kept; made ahead and compared; the timestep of the observed call is a prompt behind.
    last = STEPS - 1
    assert counts == [(0, last, 0), (0, 1, last), (last, 0, 1), (STEPS, 0, 0)]
    assert after.bytes_away == after.weight_bytes


def test_without_offloading_nothing_is_made_ahead() -> None:
    shape = SHAPES["flux"]
    pipe = dcache.memo(shape.build())
    for i in range(3):
        before = dcache.memo_report(pipe).fills
        shape.run(pipe, **prompt(shape, i))
    assert dcache.memo_report(pipe).fills - before == STEPS * len(dcache.memo_report(pipe).modules)
