"""What share of the sublayers' FLOPs reaches a speedup, against a count of the call."""

from __future__ import annotations

import pytest
import torch

import dcache
from dcache import DcacheError
from dcache.eval.call_cost import counting
from dcache.search.route import flops_of, scheduled
from dcache.search.routing.call_flops import CallFlops
from dcache.search.routing.router import Router, sublayers_of
from tests.pipelines import SHAPES
from tests.search.pipeline_subjects import Shaped, shaped


def test_what_stays_outside_counts_for_the_speedup() -> None:
    # Four evaluations of 3 + 1, and 4 outside.
    flops = CallFlops(4, (3.0, 1.0), 20.0)
    assert flops.outside == 4.0
    # Half of 20 is 10: 6 of the sites' 16.
    assert flops.share(2.0) == 6 / 16
    assert flops.speedup(6 / 16) == 2.0
    # The first evaluation and what is outside are 8 of 20.
    assert flops.share(2.5) == 1 / 4
    for wrong in (2.6, 1.0):
        with pytest.raises(
            DcacheError, match=r"at most 2\.50, got .* 20% of the call's FLOPs are outside sublayers"
        ):
            flops.share(wrong)


def counted(subject: Shaped) -> float:
    """FLOPs of a call."""
    counter = counting()
    with counter:
        subject(["1"], [1])
    return float(counter.get_total_flops())


@pytest.mark.parametrize("speedup", [1.2, 1.5])
@pytest.mark.parametrize("name", ["pixart", "flux"])
def test_a_schedule_for_a_speedup_has_it_by_a_count_of_its_call(name: str, speedup: float) -> None:
    subject = shaped(SHAPES[name])
    sites = tuple(s.name for s in sublayers_of(subject.pipe.transformer))
    flops = flops_of(subject, "1", 1)
    share = flops.share(speedup)
    logits = torch.randn(flops.steps, len(sites), generator=torch.Generator().manual_seed(0))
    schedule = scheduled(subject, Router(logits, sites, flops.sites), share)
    uncached = counted(subject)
    assert uncached == flops.total
    with dcache.enabled(subject.pipe, schedule):
        # The first call also checks the method.
        counted(subject)
        cached = counted(subject)
    # At least as fast as was asked for; one sublayer more would be too many.
    assert uncached / (cached + max(flops.sites)) < speedup <= uncached / cached
