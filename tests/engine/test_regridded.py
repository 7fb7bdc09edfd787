"""Schedules with noise levels of their own on real pipelines."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import dcache
from dcache.errors import DcacheError
from dcache.schedule import Schedule
from dcache.schedule.noise_levels import adjusted
from tests.engine.tiny_models import Toy, walk
from tests.pipelines import FLUX, PIXART, STEPS, WAN, Shape, at_step_end

CASES = [(FLUX, "flow_euler", "off"), (WAN, "unipc", "sequential"), (WAN, "flow_euler", "off")]
FACTORS = [1.0, 0.6, 1.0, 0.8, 0.5, 1.0, 1.0]


def own_levels(shape: Shape, sampler: str, guidance: str) -> tuple[list[float], torch.Tensor]:
    """The levels of a run without dcache, and its latents."""
    pipe = shape.build(sampler)
    latents = shape.run(pipe, guidance)
    return pipe.scheduler.sigmas.tolist(), latents


@pytest.mark.parametrize(("shape", "sampler", "guidance"), CASES, ids=str)
def test_other_levels_reach_the_sampler_the_denoiser_and_the_trace(
    shape: Shape, sampler: str, guidance: str, tmp_path: Any
) -> None:
    levels, plain = own_levels(shape, sampler, guidance)
    computed = Schedule.of_steps(range(STEPS), STEPS, sites="trunk")
    pipe = shape.build(sampler)
    dcache.enable(pipe, replace(computed, sigmas=tuple(levels)))
    assert torch.equal(shape.run(pipe, guidance), plain)
    wanted = adjusted(levels, FACTORS)
    seen: list[Any] = []
    handle = shape.denoiser(pipe).register_forward_pre_hook(
        lambda _m, a, k: seen.append(float(k["timestep"].flatten()[0])), with_kwargs=True
    )
    made = replace(Schedule.of_steps([0, 2, 5, 6], STEPS, sites="trunk"), sigmas=wanted)
    dcache.enable(pipe, made)
    first = shape.run(pipe, guidance)
    handle.remove()
    assert not torch.equal(first, plain)
    scale = 1.0 if shape is FLUX else 1000.0
    assert sorted(set(seen), reverse=True) == pytest.approx(
        [s * scale for s in wanted[:-1]], abs=1e-3 * scale
    )
    trace = dcache.trace(pipe)
    assert trace.sigmas == wanted
    dcache.enable(pipe, str(trace.save(tmp_path / "t.json")))
    assert torch.equal(shape.run(pipe, guidance), first)
    assert torch.equal(shape.run(pipe, guidance), first)
    dcache.disable(pipe)
    assert pipe.scheduler.sigmas.tolist() == levels
    assert torch.equal(shape.run(pipe, guidance), plain)


def test_taking_it_off_in_the_middle_leaves_the_run_its_levels() -> None:
    levels, _ = own_levels(FLUX, "flow_euler", "off")
    made = replace(Schedule.of_steps(range(STEPS), STEPS, sites="trunk"), sigmas=adjusted(levels, FACTORS))
    pipe = FLUX.build()
    dcache.enable(pipe, made)
    whole = FLUX.run(pipe)
    callback = at_step_end(FLUX, lambda i: dcache.disable(pipe) if i == 3 else None)
    assert torch.equal(FLUX.run(pipe, **callback), whole)
    assert set(vars(pipe.scheduler)) == set(vars(FLUX.build().scheduler)) | set(vars(pipe.scheduler)) & {
        "num_inference_steps"
    }


def test_where_they_cannot_be_used_they_are_refused_and_nothing_is_left() -> None:
    levels = tuple(1 - i / STEPS for i in range(STEPS))
    made = replace(Schedule.of_steps([0, 2], STEPS, sites="trunk"), sigmas=levels)
    pipe = PIXART.build("ddim")
    plain = PIXART.run(pipe)
    dcache.enable(pipe, made)
    with pytest.raises(DcacheError, match="DDIMScheduler cannot be given any"):
        PIXART.run(pipe)
    dcache.disable(pipe)
    assert torch.equal(PIXART.run(pipe), plain)
    with pytest.raises(DcacheError, match=r"and the sampler makes 9 steps"):
        FLUX.run(dcache.enable(FLUX.build(), made), num_inference_steps=9)
    with pytest.raises(DcacheError, match="another sampler"):
        WAN.run(dcache.enable(WAN.build(), replace(made, sigmas=tuple(0.9 * s for s in levels))))


def test_a_loop_without_a_sampler_is_told_that_nobody_was_given_them() -> None:
    toy = Toy()
    made = replace(Schedule.of_steps([0, 2], 4), sigmas=(1.0, 0.7, 0.5, 0.2))
    dcache.enable(toy, made)
    with pytest.raises(DcacheError, match="no sampler that dcache knows of was given them"):
        walk(toy, [4, 3, 2, 1])
