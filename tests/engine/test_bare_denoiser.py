"""`dcache.enable(pipe.transformer)`: the denoiser alone does as well as the pipeline where a run can be told.

The oracle is a fresh pipeline that was enabled as a whole, or a fresh denoiser.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, methods
from tests.engine.tiny_models import Mix, Toy, ToyPipe, flux_model
from tests.laws.product import PRESETS as EVERY_PRESET
from tests.pipelines import SHAPES, Shape, at_step_end

FLUX, PIXART = SHAPES["flux"], SHAPES["pixart"]
PRESETS = {
    "default": lambda: None,
    "interval": lambda: methods.interval(interval=3),
    "taylorseer": lambda: methods.taylorseer(interval=3),
    "easycache": lambda: methods.easycache(threshold=0.3, warmup=1),
    "fbcache": lambda: methods.fbcache(threshold=0.3),
    "teacache": lambda: methods.teacache(threshold=0.3, coefficients=(1.0, 0.0)),
    "dbcache": lambda: methods.dbcache(threshold=0.3, front=1),
    "model": lambda: methods.interval(interval=2, sites="model", last=True),
}
ONE_STEP = 12
# Tables are for runs of their own length.
ONE_STEP_PRESETS = [
    pytest.param(name, marks=[] if name in PRESETS else pytest.mark.slow)
    for name, preset in EVERY_PRESET.items()
    if preset.fits(FLUX, "flow") and not preset.sized
]
quiet = pytest.mark.filterwarnings("ignore:nothing was predicted:dcache.DcacheWarning")


class StoppedError(Exception):
    """The user cancels."""


def stop_after(shape: Shape, steps: int) -> dict[str, Any]:
    """Call arguments that break a run off."""

    def act(i: int) -> None:
        if i == steps - 1:
            raise StoppedError

    return at_step_end(shape, act)


@quiet
@pytest.mark.parametrize("name", ONE_STEP_PRESETS)
def test_twelve_pictures_of_one_step_are_a_fresh_pipelines(name: str) -> None:
    plain, pipe = FLUX.build(), FLUX.build()
    dcache.enable(pipe.transformer, EVERY_PRESET[name].method())
    for seed in range(ONE_STEP):
        picture = FLUX.run(pipe, seed=seed, num_inference_steps=1)
        assert torch.equal(picture, FLUX.run(plain, seed=seed, num_inference_steps=1))
        stats = dcache.stats(pipe.transformer)
        assert (stats.steps, stats.bytes_now) == (1, 0)


@quiet
@pytest.mark.parametrize("own_sampler", [False, True], ids=["one sampler", "two samplers"])
@pytest.mark.parametrize("name", ["default", "easycache", "fbcache"])
def test_a_cancelled_run_and_the_next_picture_are_two_runs(name: str, own_sampler: bool) -> None:
    fresh = dcache.enable(FLUX.build(), PRESETS[name]())
    expected = FLUX.run(fresh, seed=5)
    pipe = FLUX.build()
    dcache.enable(pipe.transformer, PRESETS[name]())
    with pytest.raises(StoppedError):
        FLUX.run(pipe, **stop_after(FLUX, 2))
    assert dcache.stats(pipe.transformer).steps == 2
    other = FLUX.build(model=pipe.transformer) if own_sampler else pipe
    assert torch.equal(FLUX.run(other, seed=5), expected)
    stats = dcache.stats(pipe.transformer)
    # `last=True` is honoured, and nothing is held behind the last step.
    assert (stats.steps, stats.reasons) == (7, dcache.stats(fresh).reasons)
    assert stats.bytes_now == 0 < stats.bytes_held
    dcache.disable(pipe.transformer)
    for each in (pipe, other):
        assert not {"step", "set_timesteps", "_dcache_ended"} & set(vars(each.scheduler))


def test_its_trace_is_that_of_the_pipeline_and_replays() -> None:
    whole = dcache.enable(FLUX.build(), "newton", interval=3)
    expected = FLUX.run(whole)
    pipe = FLUX.build()
    dcache.enable(pipe.transformer, "newton", interval=3)
    assert torch.equal(FLUX.run(pipe), expected)
    trace = dcache.trace(pipe.transformer)
    (alone,), (plan,) = trace.components.values(), dcache.trace(whole).components.values()
    assert (alone.rows, alone.runs, trace.sampler) == (plan.rows, (), "FlowMatchEulerDiscreteScheduler")
    dcache.enable(pipe.transformer, trace)
    assert torch.equal(FLUX.run(pipe), expected)


@pytest.mark.parametrize("inside", [0, 2])
def test_a_run_in_the_callback_of_another_one_is_a_fresh_pipelines(inside: int) -> None:
    method = methods.interval(interval=3)
    expected = FLUX.run(dcache.enable(FLUX.build(), method), seed=2)
    pipe, pictures = FLUX.build(), list[torch.Tensor]()
    denoiser, other = dcache.enable(pipe.transformer, method), FLUX.build(model=pipe.transformer)

    def act(i: int) -> None:
        if i == inside:
            pictures.append(FLUX.run(other, seed=2))

    FLUX.run(pipe, **at_step_end(FLUX, act))
    assert torch.equal(pictures[0], expected)
    # What follows in the outer run began without the anchors before: its rows would not give the same bits.
    assert dcache.stats(denoiser).predicted > 0
    with pytest.raises(DcacheError, match="first evaluations were not seen"):
        dcache.trace(denoiser)
    FLUX.run(pipe)
    assert dcache.trace(denoiser).steps == dcache.stats(denoiser).steps == 7


@pytest.mark.parametrize("sampler", ["heun", "pndm"])
def test_another_pipeline_that_shares_the_denoiser_may_repeat_timesteps(sampler: str) -> None:
    shape = SHAPES["sd"]
    method = methods.interval(interval=3)
    expected = shape.run(dcache.enable(shape.build(sampler), method), seed=2)
    first = dcache.enable(shape.build("ddim"), method)
    own = shape.run(first)
    other = shape.build(sampler, model=first.unet)
    assert torch.equal(shape.run(other, seed=2), expected)
    assert torch.equal(shape.run(first), own)
    # Also where the first one's run was broken off.
    with pytest.raises(StoppedError):
        shape.run(first, **stop_after(shape, 2))
    assert torch.equal(shape.run(other, seed=2), expected)


def test_what_a_broken_off_run_holds_is_freed_with_its_sampler() -> None:
    pipe = FLUX.build()
    denoiser = dcache.enable(pipe.transformer, "interval", interval=3)
    with pytest.raises(StoppedError) as caught:
        FLUX.run(pipe, **stop_after(FLUX, 2))
    assert dcache.stats(denoiser).bytes_now > 0
    # The frames of the call hold the pipeline.
    del pipe, caught
    gc.collect()
    assert dcache.stats(denoiser).bytes_now == 0


class Net(nn.Module):
    """Blocks that see timestep and prompt."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([Mix() for _ in range(3)])
        self.eval()

    def forward(
        self, x: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> torch.Tensor:
        x = x + encoder_hidden_states.mean() * timestep
        for block in self.blocks:
            x = block(x)
        return x


def hand_written(
    net: nn.Module, seed: int, steps: int, begin: float = 1.0, evaluations: int = 99
) -> torch.Tensor:
    """A loop without a sampler, with a prompt of its own; it may break off."""
    g = torch.Generator().manual_seed(seed)
    x, prompt = torch.randn(1, 2, 4, generator=g), torch.randn(1, 3, 4, generator=g)
    with torch.no_grad():
        for i in range(min(steps, evaluations)):
            t = torch.tensor(begin * (1 - i / steps))
            x = x - net(x, t, encoder_hidden_states=prompt) / steps
    return x


@quiet
@pytest.mark.filterwarnings("ignore:this run of Net had 2 evaluations:dcache.DcacheWarning")
@pytest.mark.filterwarnings("ignore:3 runs of Net in a row broke off:dcache.DcacheWarning")
@pytest.mark.parametrize("name", ["default", "interval", "easycache"])
def test_without_any_sampler_a_prompt_in_the_old_ones_place_opens_a_run(name: str) -> None:
    net, plain = dcache.enable(Net(), PRESETS[name]()), Net()
    for seed in range(ONE_STEP):
        assert torch.equal(hand_written(net, seed, 1), hand_written(plain, seed, 1))
    hand_written(net, 50, 6, evaluations=2)
    fresh = dcache.enable(Net(), PRESETS[name]())
    # It goes on downwards from where the other one stopped.
    picture = hand_written(net, 51, 4, begin=0.5)
    assert torch.equal(picture, hand_written(fresh, 51, 4, begin=0.5))
    assert dcache.stats(net).steps == dcache.stats(fresh).steps == 4


def with_one_prompt(
    net: nn.Module, seed: int, begin: float = 1.0, evaluations: int = 99, prompt: torch.Tensor | None = None
) -> torch.Tensor:
    """As `hand_written`, with latents large enough to be recognised and a prompt that the caller may hold."""
    x = torch.randn(1, 64, 4, generator=torch.Generator().manual_seed(seed))
    prompt = torch.ones(1, 3, 4) if prompt is None else prompt
    with torch.no_grad():
        for i in range(min(6, evaluations)):
            x = x - net(x, torch.tensor(begin * (1 - i / 6)), encoder_hidden_states=prompt) / 6
    return x


@quiet
@pytest.mark.parametrize("holds", [False, True], ids=["same prompt", "prompts that live on"])
@pytest.mark.parametrize("broken_off", [1, 2, 3])
@pytest.mark.parametrize("name", ["default", "interval", "easycache"])
def test_without_any_sampler_other_latents_open_a_run(name: str, broken_off: int, holds: bool) -> None:
    net, fresh = dcache.enable(Net(), PRESETS[name]()), dcache.enable(Net(), PRESETS[name]())
    first, second = torch.ones(1, 3, 4), torch.full((1, 3, 4), 2.0)
    with_one_prompt(net, 50, evaluations=broken_off, prompt=first)
    # It goes on downwards from where the other one stopped, with other noise.
    then = {"seed": 51, "begin": 0.5, "prompt": second if holds else first}
    assert torch.equal(with_one_prompt(net, **then), with_one_prompt(fresh, **then))
    assert dcache.stats(net).steps == dcache.stats(fresh).steps == 6


def test_a_sampler_within_reach_that_the_loop_does_without_is_no_matter() -> None:
    net = dcache.enable(Net(), "interval", interval=2)

    def loop(scheduler: Any, use: bool) -> None:
        if use:
            scheduler.step(None, 1.0, None)
        hand_written(net, 1, 6)

    pipe = ToyPipe(Toy())
    pipe.scheduler.set_timesteps(6)
    for _ in range(2):
        loop(pipe.scheduler, use=False)
    # 1, 5/6, 4/6, ...: computed in every second evaluation of the second run.
    stats = dcache.stats(net)
    assert (stats.steps, stats.computed, stats.predicted) == (6, 3, 3)


def test_a_walk_of_a_stateless_sampler_without_set_timesteps_is_a_run_of_its_own() -> None:
    from diffusers import DDIMScheduler

    net, scheduler = dcache.enable(Net(), "interval", interval=9), DDIMScheduler()
    scheduler.set_timesteps(5)
    prompt = torch.ones(1, 3, 4)
    for steps in (3, 5):
        x = torch.ones(1, 2, 4)
        with torch.no_grad():
            for t in scheduler.timesteps[:steps]:
                x = scheduler.step(net(x, t / 1000, encoder_hidden_states=prompt), t, x).prev_sample
    stats = dcache.stats(net)
    assert (stats.steps, stats.computed, stats.predicted) == (5, 1, 4)


def test_a_loop_of_a_flux_without_a_sampler_still_goes_by_its_timesteps() -> None:
    from tests.engine.tiny_models import flux_loop

    model = dcache.enable(flux_model(), "interval", interval=2)
    for _ in range(2):
        flux_loop(model, steps=6)
        assert (dcache.stats(model).steps, dcache.stats(model).predicted) == (6, 3)


def turns(net: nn.Module, count: int) -> None:
    """Loops of six evaluations, each with a sampler of its own, that take turns evaluation by evaluation."""
    from diffusers import DDIMScheduler

    def loop(seed: int) -> Iterator[None]:
        scheduler = DDIMScheduler()
        scheduler.set_timesteps(6)
        x = torch.randn(1, 64, 4, generator=torch.Generator().manual_seed(seed))
        prompt = torch.full((1, 3, 4), float(seed))
        for t in scheduler.timesteps:
            with torch.no_grad():
                output = net(x, t / 1000, encoder_hidden_states=prompt)
            x = scheduler.step(output, t, x).prev_sample
            yield

    for _ in zip(*(loop(seed) for seed in range(count)), strict=True):
        pass


@quiet
def test_loops_that_take_turns_in_one_thread_predict_nothing_and_that_is_said_once() -> None:
    net = dcache.enable(Net(), "interval", interval=2)
    with pytest.warns(DcacheWarning, match=r"3 runs of Net in a row broke off .*take turns") as caught:
        turns(net, 2)
    assert sum("take turns" in str(warning.message) for warning in caught) == 1
    assert dcache.stats(net).predicted == 0
    turns(net, 1)
    assert dcache.stats(net).predicted == 3


def test_a_run_that_is_cancelled_now_and_then_is_no_turn() -> None:
    shape = PIXART
    pipe = shape.build()
    dcache.enable(shape.denoiser(pipe), "interval", interval=3)
    for _ in range(3):
        with pytest.raises(StoppedError):
            shape.run(pipe, **stop_after(shape, 1))
        shape.run(pipe)


class Conditioned(Net):
    """Blocks on a sample that is passed behind a condition of its shape."""

    def forward(
        self, condition: torch.Tensor, hidden_states: torch.Tensor, timestep: torch.Tensor
    ) -> torch.Tensor:
        x = hidden_states + condition * timestep
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("name", ["seacache", "easycache"])
def test_a_sample_that_is_passed_by_name_behind_a_condition_is_what_is_compared(name: str) -> None:
    method = getattr(methods, name)(threshold=0.2, warmup=1, last=False)
    events = []
    for names in (["condition", "hidden_states"], ["hidden_states", "condition"]):
        net = dcache.enable(Conditioned(), method)
        x = torch.randn(1, 64, 4, generator=torch.Generator().manual_seed(1))
        given = {"condition": torch.ones(1, 64, 4), "hidden_states": x}
        for i in range(8):
            t = 1.0 - i / 8
            dcache.step(net, i, sigma=t, flow=True)
            with torch.no_grad():
                output = net(**{key: given[key] for key in names}, timestep=torch.tensor(t))
            given["hidden_states"] = given["hidden_states"] - output / 8
        (plan,) = dcache.trace(net).components.values()
        events.append(plan.rows)
    assert events[0] == events[1]
    (row,) = next(iter(events[0].values())).values()
    assert True in row[1:]
    assert False in row


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_a_step_that_was_looked_up_once_for_all_ends_every_evaluation(name: str, scale: float) -> None:
    import diffusers

    def loop(net: nn.Module, announced: bool = False) -> torch.Tensor:
        scheduler = getattr(diffusers, name)()
        scheduler.set_timesteps(8)
        # Before the sampler is found in the loop and intercepted.
        step, timesteps = scheduler.step, list(scheduler.timesteps)
        x = torch.randn(1, 64, 4, generator=torch.Generator().manual_seed(1)) * scheduler.init_noise_sigma
        prompt = torch.ones(1, 3, 4)
        for i, t in enumerate(timesteps):
            if announced:
                dcache.step(net, i)
            with torch.no_grad():
                output = net(scheduler.scale_model_input(x, t), t / scale, encoder_hidden_states=prompt)
            x = step(output, t, x).prev_sample
        return x

    net, told = dcache.enable(Net(), "interval", interval=3), dcache.enable(Net(), "interval", interval=3)
    picture = loop(net)
    assert dcache.stats(net).steps == 8
    # A table that does not list what the model is given tells nothing; then an evaluation more is computed.
    tells = name == "EulerDiscreteScheduler" or scale == 1.0
    assert dcache.stats(net).computed == (3 if tells else 4)
    assert torch.equal(picture, loop(told, announced=True)) is tells
    trace = dcache.trace(net)
    assert torch.equal(loop(net), picture)
    dcache.enable(net, trace)
    assert torch.equal(loop(net), picture)
