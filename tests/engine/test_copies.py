"""Copies, swapped parts and shared ones: nobody computes with another's weights or loses caching silently."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch

import dcache
from dcache import DcacheError, DcacheWarning, methods
from tests.engine.tiny_models import (
    Mix,
    Toy,
    flux_loop,
    flux_model,
    flux_pipe,
    flux_run,
    sd_pipe,
    sd_run,
    walk,
)

EVERY_2 = methods.interval(interval=2)
TIMES = [4, 3, 2, 1]


def mixes(seed: int = 0) -> Toy:
    torch.manual_seed(seed)
    return Toy([Mix() for _ in range(3)])


def shift(module: Any) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05)


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def copied(module: Any, how: str) -> Any:
    if how == "deepcopy":
        return copy.deepcopy(module)
    if how == "pickle":
        return pickle.loads(pickle.dumps(module))
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("model", [mixes, flux_model])
def test_a_copy_of_an_enabled_module_has_its_own_weights_and_no_cache(
    how: str, ran: bool, model: Any
) -> None:
    original = model()
    loop = flux_loop if model is flux_model else lambda m: torch.stack(walk(m, TIMES))
    plain = loop(original)
    dcache.enable(original, EVERY_2)
    if ran:
        cached = loop(original)
    twin = copied(original, how)
    assert torch.equal(loop(twin), plain)
    with pytest.raises(DcacheError, match=r"not enabled on this .* call dcache\.enable first"):
        dcache.stats(twin)
    shift(twin)
    assert not torch.equal(loop(twin), plain)
    if not ran:
        cached = loop(original)
    assert torch.equal(loop(original), cached)
    assert not torch.equal(cached, plain)
    dcache.enable(twin, EVERY_2)
    loop(twin)
    assert dcache.stats(twin).predicted == dcache.stats(original).predicted > 0
    dcache.disable(original)
    assert torch.equal(loop(original), plain)
    loop(twin)
    assert dcache.stats(twin).predicted > 0


@pytest.mark.parametrize("ran", [False, True])
def test_a_copy_of_an_enabled_pipeline_is_a_plain_pipeline(ran: bool) -> None:
    pipe = flux_pipe()
    plain = flux_run(pipe)
    dcache.enable(pipe, EVERY_2)
    if ran:
        flux_run(pipe)
    twin = copy.deepcopy(pipe)
    assert torch.equal(flux_run(twin), plain)
    shift(twin.transformer)
    changed = flux_run(twin)
    assert not torch.equal(changed, plain)
    cached = flux_run(pipe)
    assert dcache.stats(pipe).predicted == 3

    # A copy that runs in the middle of the original's run disturbs nothing, enabled or not.
    def meanwhile(_pipe: Any, step: int, _t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 2:
            flux_run(twin)
        return kwargs

    assert torch.equal(flux_run(pipe, callback_on_step_end=meanwhile), cached)
    dcache.enable(twin, EVERY_2)
    assert torch.equal(flux_run(pipe, callback_on_step_end=meanwhile), cached)
    assert dcache.stats(twin).predicted == dcache.stats(pipe).predicted == 3
    dcache.disable(twin)
    dcache.disable(pipe)
    assert torch.equal(flux_run(twin), changed)
    assert torch.equal(flux_run(pipe), plain)


def test_a_copied_scheduler_works_on_its_own() -> None:
    pipe = sd_pipe()
    dcache.enable(pipe, EVERY_2)
    sd_run(pipe)
    twin = copy.deepcopy(pipe.scheduler)
    twin.set_timesteps(4)
    x = torch.ones(1, 4, 8, 8)
    for t in twin.timesteps:
        x = twin.step(x * 0.1, t, x).prev_sample
    cached = sd_run(pipe)
    assert dcache.stats(pipe).predicted == 3
    pipe.scheduler = twin
    assert torch.equal(sd_run(pipe), cached)
    assert (dcache.stats(pipe).steps, dcache.stats(pipe).predicted) == (6, 3)
    dcache.disable(pipe)
    assert not {"step", "set_timesteps"} & set(vars(pipe.scheduler))


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "HeunDiscreteScheduler", "PNDMScheduler"])
def test_a_replaced_sampler_is_found(name: str) -> None:
    import diffusers

    pipe = sd_pipe()
    dcache.enable(pipe, EVERY_2)
    sd_run(pipe)
    old = pipe.scheduler
    pipe.scheduler = getattr(diffusers, name).from_config(old.config)
    for _ in range(2):
        sd_run(pipe)
        stats = dcache.stats(pipe)
        # Heun evaluates twice per step but for the last, PNDM four times per step for the first three of six.
        assert stats.steps == {"HeunDiscreteScheduler": 11, "PNDMScheduler": 15}.get(name, 6)
        assert stats.predicted == stats.steps // 2
        assert dcache.trace(pipe).sampler == name
    dcache.disable(pipe)
    for sampler in (old, pipe.scheduler):
        assert not {"step", "set_timesteps"} & set(vars(sampler))


@pytest.mark.parametrize("also", ["", "scheduler"])
def test_a_swapped_denoiser_is_followed(also: str) -> None:
    pipe, other = flux_pipe(), flux_pipe(seed=5)
    expected_other = flux_run(dcache.enable(other, EVERY_2))
    dcache.disable(other)
    dcache.enable(pipe, EVERY_2)
    expected = flux_run(pipe)
    old = pipe.transformer
    pipe.transformer = other.transformer
    if also:
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    for _ in range(2):
        assert torch.equal(flux_run(pipe), expected_other)
        assert (dcache.stats(pipe).steps, dcache.stats(pipe).predicted) == (6, 3)
    with pytest.raises(DcacheError, match="not enabled"):
        dcache.stats(old)
    assert "_compiled_call_impl" not in {k for k, v in vars(old).items() if v is not None}
    pipe.transformer = old
    assert torch.equal(flux_run(pipe), expected)
    dcache.disable(pipe)
    for module in (old, other.transformer):
        assert not {"compile", "cache_context"} & set(vars(module))


def test_a_swapped_denoiser_that_lacks_the_sites_is_an_error() -> None:
    pipe = flux_pipe()
    dcache.enable(pipe, EVERY_2.with_sites(("run:1-3",)))
    flux_run(pipe)
    pipe.transformer = flux_model(layers=1, single=1)
    with pytest.raises(
        DcacheError, match="'run:1-3' is out of range: FluxTransformer2DModel has blocks 0 to 1"
    ):
        flux_run(pipe)
    dcache.disable(pipe)
    flux_run(pipe)


def test_a_schedule_follows_a_swap_with_its_checks() -> None:
    pipe = flux_pipe()
    dcache.enable(pipe, EVERY_2)
    flux_run(pipe)
    schedule = dcache.trace(pipe)
    dcache.enable(pipe, schedule)
    flux_run(pipe)
    pipe.transformer = flux_model(layers=3)
    with pytest.warns(DcacheWarning, match=r"the schedule was made with config .* and is used with"):
        flux_run(pipe)
    assert dcache.stats(pipe).predicted == 3


def test_pipelines_that_share_a_denoiser_share_its_session() -> None:
    from diffusers import FluxImg2ImgPipeline, FluxPipeline

    pipe = flux_pipe()
    dcache.enable(pipe, EVERY_2)
    cached = flux_run(pipe)
    sibling = FluxPipeline.from_pipe(pipe)
    sibling.set_progress_bar_config(disable=True)
    assert torch.equal(flux_run(sibling), cached)
    assert dcache.stats(sibling).predicted == 3
    assert torch.equal(flux_run(pipe), cached)
    # Enabled anew on the sibling: the shared denoiser has one method, and both pipes know.
    dcache.enable(sibling, methods.interval(interval=3))
    slower = flux_run(sibling)
    assert dcache.stats(pipe).predicted == dcache.stats(sibling).predicted == 4
    assert torch.equal(flux_run(pipe), slower)
    dcache.disable(pipe)
    with pytest.raises(DcacheError, match="not enabled"):
        dcache.stats(FluxImg2ImgPipeline.from_pipe(pipe))
    dcache.disable(sibling)
    for thing in (pipe, sibling):
        assert not {"maybe_free_model_hooks", "progress_bar"} & set(vars(thing))
