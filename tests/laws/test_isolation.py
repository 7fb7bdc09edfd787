"""L4: no branch, pipeline, run or resolution sees another's state."""

from collections.abc import Callable, Mapping
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import Method, methods
from dcache.engine.session import session_of
from tests.cover import each_value
from tests.laws.product import PRESETS
from tests.pipelines import FLUX, SD, SHAPES, STEPS, WAN, Shape, at_step_end, generator

WAYS = ("interval", "taylorseer", "newton-1-logsnr", "interval-model", "fbcache", "deepcache")
PAIRS = [(shape, name) for shape in SHAPES.values() for name in WAYS if PRESETS[name].fits(shape, "")]
SOLO = ("interval", "taylorseer", "newton-1-step", "interval-model", "fbcache")


def by_turns(turn: int) -> list[Any]:
    """The pairs, every second one in the fast lane; in that of the next test are the others."""
    return [
        pytest.param(shape, name, id=f"{shape}-{name}", marks=(pytest.mark.slow,) if (i + turn) % 2 else ())
        for i, (shape, name) in enumerate(PAIRS)
    ]


class StopError(Exception):
    """Raised in mid-run."""


class Duck:
    """The least that is a pipeline: a denoiser and a sampler."""

    def __init__(self, transformer: nn.Module, scheduler: Any) -> None:
        self.transformer = transformer
        self.scheduler = scheduler


def recorded(model: nn.Module) -> list[tuple[tuple[Any, ...], dict[str, Any], torch.Tensor]]:
    """A list that will hold every call of a model: arguments and output."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any], torch.Tensor]] = []

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        calls.append((args, kwargs, output[0].clone()))

    model.register_forward_hook(note, with_kwargs=True)
    return calls


def alone(model: nn.Module, calls: list[Any], method: Method) -> None:
    """A branch's calls on a fresh model that sees no other branch give the same bits."""
    dcache.enable(model, method)
    with torch.no_grad():
        for i, (args, kwargs, output) in enumerate(calls):
            dcache.step(model, index=i, steps=len(calls))
            assert torch.equal(model(*args, **kwargs)[0], output)
    assert dcache.stats(model).predicted > 0


def guided(duck: Duck, shape: Shape, branches: int) -> torch.Tensor:
    """A hand-written loop that calls the denoiser once per branch in every step."""
    inputs = [shape.arguments(seed=10 * b) for b in range(branches)]
    duck.scheduler.set_timesteps(STEPS)
    x = torch.randn(1, 4, 8, 8, generator=generator(0)) * duck.scheduler.init_noise_sigma
    with torch.no_grad():
        for t in duck.scheduler.timesteps:
            outputs = [
                duck.transformer(
                    duck.scheduler.scale_model_input(x, t),
                    encoder_hidden_states=inputs[b]["prompt_embeds"],
                    timestep=t[None],
                    added_cond_kwargs={"resolution": None, "aspect_ratio": None},
                    return_dict=False,
                )[0][:, :4]
                for b in range(branches)
            ]
            mixed = outputs[0] + sum(2.0 * (o - outputs[0]) for o in outputs[1:])
            x = duck.scheduler.step(mixed, t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize(*each_value(sampler=("ddim", "pndm", "heun"), preset=SOLO))
def test_three_branches_of_a_hand_written_loop_do_not_meet(sampler: str, preset: str) -> None:
    shape, method = SHAPES["pixart"], PRESETS[preset].method()
    duck = Duck(shape.model(0), shape.samplers[sampler]())
    calls = recorded(duck.transformer)
    plain = guided(duck, shape, 3)
    dcache.enable(duck, PRESETS[preset].all_compute())
    assert torch.equal(guided(duck, shape, 3), plain)

    calls.clear()
    dcache.enable(duck, method)
    guided(duck, shape, 3)
    stats = dcache.stats(duck)
    assert stats.steps == len(duck.scheduler.timesteps)
    sites = len(next(iter(dcache.trace(duck).components.values())).sites)
    assert stats.computed + stats.predicted == 3 * sites * stats.steps
    # The model's own hooks do not see what the whole-model site predicts; with other sites they see all,
    # and the self-check's replay of the first one on top.
    if preset != "interval-model":
        kept = [c for i, c in enumerate(calls) if not _is_replay(calls, i)]
        assert len(kept) == 3 * stats.steps
        for b in range(3):
            alone(shape.model(0), kept[b::3], method)


def _is_replay(calls: list[Any], i: int) -> bool:
    """Whether a call has the very arguments of the one before."""
    if i == 0:
        return False
    before, now = calls[i - 1], calls[i]
    return all(a is b for a, b in zip(_tensors(before), _tensors(now), strict=True))


def _tensors(call: Any) -> list[torch.Tensor]:
    return [v for v in (*call[0], *call[1].values()) if isinstance(v, torch.Tensor)]


@pytest.mark.parametrize("preset", [name for name in SOLO if name != "interval-model"])
@pytest.mark.parametrize("shape", [FLUX, WAN], ids=str)
def test_sequential_guidance_branches_do_not_meet(shape: Shape, preset: str) -> None:
    pipe = dcache.enable(shape.build("flow_euler"), PRESETS[preset].method())
    calls = recorded(shape.denoiser(pipe))
    shape.run(pipe, "sequential")
    kept = [c for i, c in enumerate(calls) if not _is_replay(calls, i)]
    assert len(kept) == 2 * STEPS
    for b in range(2):
        alone(shape.model(0), kept[b::2], PRESETS[preset].method())


@pytest.mark.parametrize("preset", ["interval", "taylorseer", "newton-1-logsnr", "interval-model"])
def test_batched_and_sequential_guidance_agree(preset: str) -> None:
    shape = SHAPES["pixart"]
    duck = dcache.enable(Duck(shape.model(0), shape.samplers["ddim"]()), PRESETS[preset].method())
    x = torch.randn(1, 4, 8, 8, generator=generator(0))
    sequential = guided(duck, shape, 2)
    inputs = [shape.arguments(seed=10 * b)["prompt_embeds"] for b in range(2)]
    pipe = dcache.enable(shape.build("ddim"), PRESETS[preset].method())
    options = {"prompt_embeds": inputs[1], "negative_prompt_embeds": inputs[0], "guidance_scale": 2.0}
    batched = shape.run(pipe, latents=x, **options)
    assert dcache.stats(duck).computed == 2 * dcache.stats(pipe).computed
    torch.testing.assert_close(batched, sequential, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [SD, WAN], ids=str)
def test_guidance_that_pauses_does_not_change_what_a_branch_remembers(shape: Shape) -> None:
    pipe = dcache.enable(shape.build(), methods.newton(interval=2, clock="step"))
    shape.run(pipe, "part")
    stats = dcache.stats(pipe)
    if shape is SD:
        # One batch of another size: steps 3 and 5 are new shapes.
        assert stats.reasons == {"warmup": 2, "shape": 2, "last": 1}
        assert (stats.computed, stats.predicted) == (5, 2)
    else:
        # The condition is called in all steps: 0, 1, 3, 5, 6 are computed. The other branch misses 3 and 4.
        (plan,) = dcache.trace(pipe).components.values()
        assert plan.rows["cond"]["trunk"] == (True, True, False, True, False, True, True)
        assert plan.rows["uncond"]["trunk"] == (True, True, False, True, True, True, True)
        assert (stats.computed, stats.predicted) == (5 + 4, 2 + 1)


# Two pipelines of one class -----------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "preset"), by_turns(0))
def test_two_pipelines_of_one_class_do_not_meet(shape: Shape, preset: str) -> None:
    method = PRESETS[preset].method()
    plain = [shape.run(shape.build(seed=s)) for s in (0, 1)]
    cached = [shape.run(dcache.enable(shape.build(seed=s), method)) for s in (0, 1)]
    # Every order ends with each pipe on or off; its runs must be what it gives alone.
    for order in list(permutations(("on 0", "on 1", "off 0", "off 1")))[::8]:
        pipes = [shape.build(seed=s) for s in (0, 1)]
        on = [False, False]
        for what in order:
            word, number = what.split()
            n = int(number)
            on[n] = word == "on"
            (dcache.enable(pipes[n], method) if on[n] else dcache.disable(pipes[n]))
        for n in (1, 0):
            assert torch.equal(shape.run(pipes[n]), cached[n] if on[n] else plain[n])


@pytest.mark.parametrize(("shape", "preset"), by_turns(1))
def test_interleaved_runs_of_two_pipelines_do_not_meet(shape: Shape, preset: str) -> None:
    method = PRESETS[preset].method()
    first = dcache.enable(shape.build(seed=0), method)
    second = dcache.enable(shape.build(seed=1), method)
    alone_1, alone_2 = shape.run(first), shape.run(second, seed=5)
    within: list[torch.Tensor] = []

    def act(i: int) -> None:
        if i == 3:
            within.append(shape.run(second, seed=5))

    assert torch.equal(shape.run(first, **at_step_end(shape, act)), alone_1)
    assert torch.equal(within[0], alone_2)


@pytest.mark.parametrize(("shape", "preset"), by_turns(2))
def test_two_pipelines_that_share_a_denoiser(shape: Shape, preset: str) -> None:
    model = shape.model(0)
    first, second = shape.build(model=model), shape.build(model=model)
    plain = [shape.run(first), shape.run(first, seed=5)]
    method = PRESETS[preset].method()
    lone = dcache.enable(shape.build(), method)
    cached = [shape.run(lone), shape.run(lone, seed=5)]

    dcache.enable(first, method)
    assert torch.equal(shape.run(first), cached[0])
    # The session belongs to the module, so the other pipeline caches as well: its loop shows the sampler.
    assert torch.equal(shape.run(second, seed=5), cached[1])
    assert dcache.stats(second).predicted > 0
    assert torch.equal(shape.run(first), cached[0])
    dcache.disable(second)
    assert torch.equal(shape.run(first), plain[0])
    assert torch.equal(shape.run(second, seed=5), plain[1])
    assert session_of(model) is None

    dcache.enable(first, method)
    dcache.enable(second, method)
    assert torch.equal(shape.run(second, seed=5), cached[1])
    assert torch.equal(shape.run(first), cached[0])
    dcache.disable(first)
    dcache.disable(second)
    assert torch.equal(shape.run(second, seed=5), plain[1])


# One pipeline, several runs -----------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "preset"), by_turns(3))
def test_a_run_after_an_interrupted_one_is_a_fresh_run(shape: Shape, preset: str) -> None:
    method = PRESETS[preset].method()
    fresh = dcache.enable(shape.build(), method)
    expected = shape.run(fresh)
    counts = dcache.stats(fresh)
    pipe = dcache.enable(shape.build(), method)
    for step in (0, 1, 4):

        def act(i: int, step: int = step) -> None:
            if i == step:
                raise StopError

        with pytest.raises(StopError):
            shape.run(pipe, seed=5, **at_step_end(shape, act))
        assert torch.equal(shape.run(pipe), expected)
        now = dcache.stats(pipe)
        assert (now.steps, now.computed, now.reasons) == (counts.steps, counts.computed, counts.reasons)


@pytest.mark.parametrize(("shape", "preset"), by_turns(4))
def test_another_resolution_in_between_changes_nothing(shape: Shape, preset: str) -> None:
    method = PRESETS[preset].method()
    pipe = dcache.enable(shape.build(), method)
    other = dcache.enable(shape.build(), method)
    wide = {"width": 64 if shape is WAN else 128}
    expected, expected_wide = shape.run(pipe), shape.run(other, **wide)
    assert torch.equal(shape.run(pipe, **wide), expected_wide)
    assert torch.equal(shape.run(pipe), expected)
    assert torch.equal(shape.run(other), expected)


@pytest.mark.parametrize(("shape", "preset"), by_turns(5))
def test_two_pictures_at_once_are_those_made_one_by_one(shape: Shape, preset: str) -> None:
    if preset == "fbcache":
        pytest.skip("its decision averages over the batch")
    pipe = dcache.enable(shape.build(), PRESETS[preset].method())
    singles = [shape.run(pipe, generator=generator(s)) for s in (0, 1)]
    counted = "num_videos_per_prompt" if shape is WAN else "num_images_per_prompt"
    more: dict[str, Any] = {counted: 2}
    if shape is FLUX:
        # Flux takes embeddings as they are, one row per picture.
        inputs = shape.inputs(1)
        more = {k: inputs[k].repeat_interleave(2, 0) for k in ("prompt_embeds", "pooled_prompt_embeds")}
    both = shape.run(pipe, generator=[generator(0), generator(1)], **more)
    torch.testing.assert_close(both, torch.cat(singles), rtol=1e-3, atol=1e-3)


# Image to image -----------------------------------------------------------------------------------


def _sd_image(pipe: Any) -> Any:
    from diffusers import StableDiffusionImg2ImgPipeline

    return StableDiffusionImg2ImgPipeline.from_pipe(pipe, requires_safety_checker=False)


def _flux_image(pipe: Any) -> Any:
    from diffusers import FluxImg2ImgPipeline

    return FluxImg2ImgPipeline.from_pipe(pipe)


IMAGES: Mapping[str, tuple[Shape, Callable[[Any], Any], torch.Tensor]] = {
    "sd": (SD, _sd_image, torch.randn(1, 4, 8, 8, generator=generator(7))),
    "flux": (FLUX, _flux_image, torch.randn(1, 16, 8, 8, generator=generator(7))),
}


def image_run(name: str, pipe: Any, steps: int = 10) -> torch.Tensor:
    """Half of the steps, starting from a picture in latent space."""
    shape, _, image = IMAGES[name]
    call = shape.arguments(image=image, strength=0.5, num_inference_steps=steps)
    if name == "sd":
        del call["height"], call["width"]
    return pipe(**call).images


@pytest.mark.parametrize("name", IMAGES)
def test_image_to_image_starts_late_and_shares_the_denoiser(name: str) -> None:
    shape, convert, _ = IMAGES[name]
    text = shape.build()
    image = convert(text)
    image.set_progress_bar_config(disable=True)
    assert shape.denoiser(image) is shape.denoiser(text)
    plain, plain_text = image_run(name, image), shape.run(text)

    dcache.enable(image, "newton", interval=1)
    assert torch.equal(image_run(name, image), plain)
    assert dcache.stats(image).steps == 5

    dcache.enable(image, "newton", interval=2, warmup=1, clock="timestep")
    session = session_of(shape.denoiser(image))
    assert session is not None
    seen: list[list[float]] = []

    def act(i: int) -> None:
        seen.append(
            [h.taus[-1] for branch in session.state.branches.values() for h in branch.histories.values()]
        )

    call = at_step_end(shape, act)
    cached = image_run_with(name, image, call)
    stats = dcache.stats(image)
    assert not torch.equal(cached, plain)
    assert (stats.steps, stats.reasons) == (5, {"warmup": 1, "interval": 1, "last": 1})
    # 0, 2 and 4 are computed: the anchors carry the timesteps of the second half of the table.
    late = [float(t) for t in image.scheduler.timesteps[-5:]]
    assert [taus[0] for taus in seen[:-1]] == pytest.approx([late[0], late[0], late[2], late[2]])
    assert seen[-1] == []

    assert torch.equal(image_run(name, image), cached)
    shape.run(text)
    assert torch.equal(image_run(name, image), cached)
    dcache.disable(image)
    assert torch.equal(shape.run(text), plain_text)
    assert torch.equal(image_run(name, image), plain)


def image_run_with(name: str, pipe: Any, more: dict[str, Any]) -> torch.Tensor:
    """As `image_run`, with a callback."""
    shape, _, image = IMAGES[name]
    call = shape.arguments(image=image, strength=0.5, num_inference_steps=10, **more)
    if name == "sd":
        del call["height"], call["width"]
    return pipe(**call).images
