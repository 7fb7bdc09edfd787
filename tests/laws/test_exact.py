"""L1: computing everything changes no bit. L3: replaying a run's trace gives the same bits."""

from pathlib import Path
from typing import Any

import pytest
import torch

import dcache
from dcache import Schedule
from tests.laws.product import DYNAMIC, PRESETS, Case, by_mechanism, evaluations_of, lanes, plain_of
from tests.pipelines import SHAPES, STEPS


@pytest.mark.parametrize("case", lanes(0))
def test_computing_everything_is_bit_identical_to_the_plain_pipeline(case: Case) -> None:
    pipe = dcache.enable(case.build(), PRESETS[case.preset].all_compute())
    for _ in range(2 if case.deep else 1):
        assert torch.equal(case.run(pipe), plain_of(case))
        stats = dcache.stats(pipe)
        assert stats.steps == evaluations_of(case)
        assert stats.predicted == 0
        assert stats.computed >= stats.steps


@pytest.mark.parametrize("case", lanes(1))
def test_replaying_a_trace_gives_the_same_bits(case: Case, tmp_path: Path) -> None:
    pipe = dcache.enable(case.build(), case.method)
    cached = case.run(pipe)
    stats, trace = dcache.stats(pipe), dcache.trace(pipe)
    assert stats.predicted > 0
    assert stats.computed > 0
    assert bool(torch.isfinite(cached).all())
    assert not torch.equal(cached, plain_of(case))
    assert trace.steps == stats.steps == evaluations_of(case)

    assert torch.equal(case.run(dcache.enable(pipe, trace)), cached)
    again = dcache.stats(pipe)
    assert (again.computed, again.predicted) == (stats.computed, stats.predicted)
    if not case.deep:
        return

    fresh = dcache.enable(case.build(), str(trace.save(tmp_path / "run.json")), strict=True)
    assert torch.equal(case.run(fresh), cached)
    assert dcache.trace(fresh).digest() == trace.digest()


def mechanisms() -> list[Any]:
    """Test parameters: static presets with the first sampler and guidance mode of each of the four shapes.

    One preset of each mechanism is fast: its times, which ones replace, are all that tells the others apart.
    """
    cases = [
        Case(shape, sampler, next(iter(shape.guidance)), name)
        for shape in SHAPES.values()
        for sampler in list(shape.samplers)[:1]
        for name, preset in PRESETS.items()
        if name not in DYNAMIC
        if preset.fits(shape, sampler)
    ]
    fast = {group[0] for group in by_mechanism(cases)}
    return [pytest.param(c, id=str(c), marks=() if c in fast else (pytest.mark.slow,)) for c in cases]


@pytest.mark.parametrize("case", mechanisms())
def test_a_schedule_of_ones_is_bit_identical_to_the_plain_pipeline(case: Case) -> None:
    pipe = dcache.enable(case.build(), case.method)
    case.run(pipe)
    plan = dcache.trace(pipe).components
    ones: dict[str, Any] = {}
    for name, part in plan.items():
        full = Schedule.of_steps(range(STEPS), STEPS, part.sites, uncond_from=part.uncond_from)
        ones[name] = full.components[""]
    dcache.enable(pipe, Schedule(STEPS, ones))
    assert torch.equal(case.run(pipe), plain_of(case))
    assert dcache.stats(pipe).predicted == 0
