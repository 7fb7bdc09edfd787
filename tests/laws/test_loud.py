"""L7: nothing silent. What cannot be done is an error that says what can; what did not happen, a warning."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dcache
from dcache import DcacheError, DcacheWarning, Schedule, methods
from tests.laws.product import plain, seen
from tests.pipelines import FLUX, PIXART, SD, SHAPES, STEPS, WAN, Shape, generator

DEEP = [shape for shape in SHAPES.values() if shape.depth]


@pytest.mark.parametrize("shape", DEEP, ids=str)
@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ("bracket:0", "needs a UNet with skips .* it has: model, trunk"),
        ("block:9", "out of range: .* has blocks 0 to"),
        ("run:0-9", "out of range: .* has blocks 0 to"),
        ("run:2-1", "out of range"),
        ("everything", "not understood; .* has: model, trunk"),
        ("attn:9", "does not exist in .* it has: model, trunk"),
        ([], "must be a site name"),
    ],
)
def test_sites_that_do_not_exist_are_refused_with_those_that_do(
    shape: Shape, sites: str | list[str], message: str
) -> None:
    with pytest.raises(DcacheError, match=message):
        dcache.enable(shape.build(), methods.interval(sites=sites))


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ("trunk", "needs a list of blocks .* a UNet has brackets instead; it has: model, .*bracket:N"),
        ("block", "a UNet has brackets instead"),
        ("run:0-1", "a UNet has brackets instead"),
        ("bracket:4", "has skips 0 to 3"),
        (["bracket:0", "bracket:1"], "only one can be cached"),
    ],
)
def test_a_unet_has_no_trunk_and_says_what_it_has(sites: str | list[str], message: str) -> None:
    with pytest.raises(DcacheError, match=message):
        dcache.enable(SD.build(), methods.interval(sites=sites))


def test_presets_that_do_not_fit_a_shape_are_refused() -> None:
    with pytest.raises(DcacheError, match="UNet2DConditionModel has 0 block"):
        dcache.enable(SD.build(), "fbcache")
    with pytest.raises(DcacheError, match="a UNet has brackets instead"):
        dcache.enable(SD.build(), methods.taylorseer(lite=True))
    with pytest.raises(DcacheError, match="delta' does not fit bracket:0"):
        dcache.enable(SD.build(), methods.interval(codec="delta"))
    with pytest.raises(DcacheError, match="delta' does not fit attn:0"):
        dcache.enable(PIXART.build(), methods.interval(codec="delta", sites="attn"))
    with pytest.raises(DcacheError, match="needs a UNet"):
        dcache.enable(FLUX.build(), "deepcache")
    with pytest.raises(DcacheError, match="clock='sigma' needs the noise level"):
        PIXART.run(dcache.enable(PIXART.build("ddim"), methods.newton(clock="sigma")))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_a_run_that_predicts_nothing_warns(shape: Shape) -> None:
    pipe = dcache.enable(shape.build(), methods.interval(interval=2, warmup=99))
    with pytest.warns(DcacheWarning, match="nothing was predicted .* inside the warm-up"):
        latents = shape.run(pipe)
    assert torch.equal(latents, plain(shape.name, next(iter(shape.samplers)), next(iter(shape.guidance)))[0])
    assert "nothing was predicted" in str(dcache.stats(pipe))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_training_mode_without_gradients_is_cached_like_any_other(shape: Shape) -> None:
    runs = []
    for training in (False, True):
        pipe = dcache.enable(shape.build(), "interval")
        shape.denoiser(pipe).train(training)
        runs.append(shape.run(pipe))
        assert dcache.stats(pipe).predicted > 0
    assert torch.equal(*runs)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
@pytest.mark.parametrize("steps", [STEPS - 2, STEPS + 2])
def test_a_schedule_with_another_number_of_evaluations_is_refused(shape: Shape, steps: int) -> None:
    site = "trunk" if shape.depth else "bracket:0"
    schedule = Schedule.of_steps([0, 2], steps, site)
    pipe = dcache.enable(shape.build(), schedule)
    with pytest.raises(DcacheError, match=f"schedule is for {steps} evaluations"):
        shape.run(pipe)
    shape.run(dcache.enable(pipe, schedule.stretch(STEPS)))
    assert dcache.stats(pipe).computed < dcache.stats(pipe).predicted


@pytest.mark.parametrize("sampler", ["pndm", "heun"])
def test_a_schedule_counts_evaluations_and_not_steps(sampler: str) -> None:
    pipe = dcache.enable(PIXART.build(sampler), Schedule.of_steps([0, 2], STEPS))
    with pytest.raises(DcacheError, match="second-order samplers evaluate more than once"):
        PIXART.run(pipe)


def made_by(shape: Shape, sampler: str = "") -> Schedule:
    """The trace of an interval run."""
    pipe = dcache.enable(shape.build(sampler), methods.interval(interval=2))
    shape.run(pipe, "off")
    return dcache.trace(pipe)


def test_a_schedule_of_another_model_or_sampler_warns_and_strict_refuses() -> None:
    schedule = made_by(PIXART, "ddim")
    with pytest.warns(DcacheWarning) as told:
        dcache.enable(WAN.build(), schedule)
    assert "made with model PixArtTransformer2DModel" in str(told[0].message)
    assert "made with config" in str(told[1].message)
    with pytest.raises(DcacheError, match="strict=True"):
        dcache.enable(WAN.build(), schedule, strict=True)
    pipe = dcache.enable(PIXART.build("dpm"), schedule)
    with pytest.warns(DcacheWarning, match="made with sampler DDIMScheduler"):
        PIXART.run(pipe, "off")
    pipe = dcache.enable(PIXART.build("dpm"), schedule, strict=True)
    with pytest.raises(DcacheError, match="made with sampler DDIMScheduler"):
        PIXART.run(pipe, "off")
    with pytest.raises(DcacheError, match="a UNet has brackets instead"):
        dcache.enable(SD.build(), schedule)


def test_a_schedule_of_another_guidance_warns_and_strict_refuses() -> None:
    pipe = dcache.enable(WAN.build(), methods.interval(interval=2))
    WAN.run(pipe, "sequential")
    schedule = dcache.trace(pipe)
    assert schedule.guidance == 3.0
    WAN.run(dcache.enable(WAN.build(), schedule, strict=True), "sequential")
    other = replace(schedule, guidance=5.0)
    with pytest.warns(DcacheWarning, match="made with guidance 5 and is used with 3"):
        WAN.run(dcache.enable(WAN.build(), other), "sequential")
    with pytest.raises(DcacheError, match=r"made with guidance 5 and is used with 3 \(strict=True\)"):
        WAN.run(dcache.enable(WAN.build(), other, strict=True), "sequential")


@pytest.mark.parametrize("preset", ["bac", "cachequant", "ertacache", "fitted", "profilingdit"])
def test_numbers_of_another_model_warn_and_strict_refuses(preset: str) -> None:
    site = "attn:0" if preset == "bac" else "model" if preset == "ertacache" else "trunk"
    observed = replace(
        seen(STEPS, site),
        model="WanTransformer3DModel",
        config="other",
        attention={"block:0": 0.1, "block:1": 0.9},
    )
    options = {"bac": {"computes": 3}, "ertacache": {"timesteps": False}}.get(preset, {})
    method = methods.make(preset, profile=observed, **options)
    with pytest.warns(DcacheWarning) as told:
        dcache.enable(PIXART.build(), method)
    assert f"the profile of {preset} was made with model WanTransformer3DModel" in str(told[0].message)
    assert "was made with config other" in str(told[1].message)
    with pytest.raises(DcacheError, match=rf"the profile of {preset} .*strict=True"):
        dcache.enable(PIXART.build(), method, strict=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "truncated or damaged"),
        (lambda text: text.replace('"steps": 7', '"steps": 8'), "checksum"),
        (lambda text: json.dumps({**json.loads(text), "version": 99}), "version 99"),
        (lambda text: "[]", "no schedule"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Any, message: str) -> None:
    path = made_by(PIXART).save(tmp_path / "a.json")
    path.write_text(damage(path.read_text()))
    with pytest.raises(DcacheError, match=message):
        dcache.enable(PIXART.build(), path)


def test_text_that_is_broadcast_within_the_trunk_falls_back_to_the_whole_model_and_says_so() -> None:
    # Two pictures, one row of text: the first block makes two rows of it, so nothing passes through.
    pipe = dcache.enable(FLUX.build(), methods.interval(interval=2))

    def pictures() -> dict[str, Any]:
        return {"num_images_per_prompt": 2, "generator": [generator(0), generator(1)]}

    with pytest.warns(DcacheWarning, match="whole model is remembered instead"):
        cached = FLUX.run(pipe, **pictures())
    assert bool(torch.isfinite(cached).all())
    assert dcache.stats(pipe).predicted > 0
    twin = dcache.enable(FLUX.build(), methods.interval(interval=2, sites="model"))
    assert torch.equal(FLUX.run(pipe, **pictures()), FLUX.run(twin, **pictures()))


def test_what_was_never_enabled_has_no_stats_and_no_trace() -> None:
    pipe = WAN.build()
    with pytest.raises(DcacheError, match=r"call dcache\.enable first"):
        dcache.stats(pipe)
    with pytest.raises(DcacheError, match="no run to trace"):
        dcache.trace(pipe)
    with pytest.raises(DcacheError, match="no run to trace"):
        dcache.trace(dcache.enable(pipe))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("interwal", {}, "Did you mean 'interval'"),
        ("interval", {"order": 2}, "interval has no option 'order': it takes interval"),
        ("interval", {"interval": 0}, "at least 1, got 0"),
        ("newton", {"order": 9}, "from 0 to 6, got 9"),
        ("newton", {"clock": "moon"}, "clock must be one of"),
        ("fbcache", {"threshold": -1.0}, "threshold must be a number"),
        ("interval", {"codec": "gzip"}, "codec 'gzip' is unknown"),
        ("interval", {"lowering": "fast"}, "lowering must be"),
        (3, {}, "got int"),
    ],
)
def test_bad_methods_and_options_say_what_is_good(method: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DcacheError, match=message):
        dcache.enable(WAN.build(), method, **options)
