"""The memo changes no bit, over every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import dcache
from tests.families import FAMILIES
from tests.laws.product import plain
from tests.pipelines import SHAPES, Shape

EVERY = {**SHAPES, **FAMILIES}


@pytest.mark.parametrize("name", EVERY)
def test_three_runs_with_a_memo_are_the_plain_run(name: str) -> None:
    shape = EVERY[name]
    sampler, guidance = next(iter(shape.samplers)), next(iter(shape.guidance))
    pipe = dcache.memo(shape.build(sampler), offload="cpu")
    for _ in range(3):
        assert torch.equal(shape.run(pipe, guidance), plain(name, sampler, guidance)[0])
    report = dcache.memo_report(pipe)
    print(name, f"{report.share:.3f}", report.depends_on, len(report.modules), report.hits, report.fills, report.checks, report.misses, report.bytes_away, report.weight_bytes, report.dropped)
    assert report.hits > 0
