"""diffusers' modular pipelines, and guiders, which call the denoiser once per condition.

Real blocks of three families, from the text inputs to the latents, around the tiny denoisers. A modular
pipeline has no progress bar of its own and does not say when its call is over: its last sampler step does.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import methods
from dcache.engine.session import session_of
from dcache.intercept.method import MethodIntercept
from tests.builders import embeds, generator
from tests.cover import each_value
from tests.families.unets import sdxl_model
from tests.pipelines import FLOW_EULER, NOISE_SAMPLERS, flux_model, wan_model

STEPS = 7
ALWAYS = methods.interval(interval=1)
EVERY_2 = methods.interval(interval=2)

PARTS = {"sdxl": "unet", "flux": "transformer", "wan": "transformer"}


@pytest.fixture(autouse=True)
def no_hints() -> Iterator[None]:
    """Modular pipelines are marked as experimental by diffusers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def quiet(blocks: Any) -> None:
    """No progress bars, however deep."""
    if hasattr(blocks, "set_progress_bar_config"):
        blocks.set_progress_bar_config(disable=True)
    for block in getattr(blocks, "sub_blocks", {}).values():
        quiet(block)


def build(name: str, guider: Any = None, seed: int = 0) -> Any:
    """A modular pipeline of real blocks around a tiny denoiser."""
    from diffusers.modular_pipelines.flux.modular_blocks_flux import FluxCoreDenoiseStep
    from diffusers.modular_pipelines.stable_diffusion_xl.modular_blocks_stable_diffusion_xl import (
        StableDiffusionXLCoreDenoiseStep,
    )
    from diffusers.modular_pipelines.wan.modular_blocks_wan import WanCoreDenoiseStep

    if name == "sdxl":
        pipe = StableDiffusionXLCoreDenoiseStep().init_pipeline()
        pipe.update_components(unet=sdxl_model(seed), scheduler=NOISE_SAMPLERS["euler"]())
    elif name == "flux":
        pipe = FluxCoreDenoiseStep().init_pipeline()
        pipe.update_components(transformer=flux_model(seed), scheduler=FLOW_EULER())
    else:
        pipe = WanCoreDenoiseStep().init_pipeline()
        pipe.update_components(transformer=wan_model(seed), scheduler=FLOW_EULER())
    if guider is not None:
        pipe.update_components(guider=guider)
    quiet(pipe._blocks)
    return pipe


def run(name: str, pipe: Any, steps: int = STEPS) -> torch.Tensor:
    """The final latents; guiders that draw random numbers draw the same ones."""
    inputs: dict[str, Any] = {"prompt_embeds": embeds(1, 5, 12)}
    if name != "flux":
        inputs["negative_prompt_embeds"] = embeds(2, 5, 12)
    if name != "wan":
        inputs["pooled_prompt_embeds"] = embeds(3, 8)
    if name == "sdxl":
        inputs["negative_pooled_prompt_embeds"] = embeds(4, 8)
    if name == "wan":
        size = {"height": 32, "width": 32, "num_frames": 5}
        inputs["latents"] = torch.randn(1, 4, 2, 4, 4, generator=generator(5))
    else:
        size = {"height": 64, "width": 64}
    torch.manual_seed(0)
    with warnings.catch_warnings():
        # Some of diffusers' blocks ask torch for things that it renames.
        warnings.simplefilter("ignore", FutureWarning)
        out: torch.Tensor = pipe(
            **inputs, **size, num_inference_steps=steps, generator=generator(6), output="latents"
        )
    return out


def denoiser(name: str, pipe: Any) -> nn.Module:
    """The module that is cached."""
    module: nn.Module = getattr(pipe, PARTS[name])
    return module


METHODS = {
    "default": (methods.default(), methods.newton(interval=1)),
    "interval": (EVERY_2, ALWAYS),
    "model": (methods.interval(interval=2, sites="model"), methods.interval(interval=1, sites="model")),
    "sublayers": (methods.taylorseer(interval=2), methods.taylorseer(interval=1)),
    "deepcache": (methods.deepcache(interval=2), methods.deepcache(interval=1)),
    "fbcache": (methods.fbcache(threshold=0.5, max_run=2), methods.fbcache(threshold=0.0)),
}
PAIRS = [
    (name, method)
    for name in PARTS
    for method in METHODS
    if (method != "deepcache" or name == "sdxl") and (method != "fbcache" or name != "sdxl")
]


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_computing_everything_is_bit_identical_and_a_trace_replays(
    name: str, method: str, tmp_path: Path
) -> None:
    plain = run(name, build(name))
    caching, all_compute = METHODS[method]
    pipe = dcache.enable(build(name), all_compute)
    for _ in range(2):
        assert torch.equal(run(name, pipe), plain)
        assert dcache.stats(pipe).steps == STEPS
        assert dcache.stats(pipe).predicted == 0

    dcache.enable(pipe, caching)
    cached = run(name, pipe)
    stats, trace = dcache.stats(pipe), dcache.trace(pipe)
    assert stats.predicted > 0
    assert not torch.equal(cached, plain)
    assert float((cached - plain).abs().mean() / plain.abs().mean()) < 0.1
    assert list(trace.components) == [PARTS[name]]
    assert torch.equal(run(name, pipe), cached)

    fresh = dcache.enable(build(name), str(trace.save(tmp_path / "run.json")), strict=True)
    assert torch.equal(run(name, fresh), cached)


@pytest.mark.parametrize("name", PARTS)
def test_the_last_step_of_the_sampler_ends_the_run(name: str) -> None:
    pipe = dcache.enable(build(name), EVERY_2)
    run(name, pipe)
    session = session_of(denoiser(name, pipe))
    assert session is not None
    assert session.state.run is None
    assert session.state.branches == {}
    stats = dcache.stats(pipe)
    assert stats.bytes_now == 0
    assert stats.bytes_held > 0
    assert stats.steps == STEPS


def test_a_run_too_short_to_predict_says_so_at_its_end() -> None:
    pipe = dcache.enable(build("wan"), methods.default())
    with pytest.warns(dcache.DcacheWarning, match="nothing was predicted"):
        run("wan", pipe, steps=3)


@pytest.mark.parametrize("name", PARTS)
def test_disable_leaves_nothing_behind(name: str) -> None:
    twin, pipe = build(name), build(name)
    run(name, twin)
    run(name, dcache.enable(pipe, EVERY_2))
    dcache.disable(pipe)
    for one, other in ((twin, pipe), (twin.scheduler, pipe.scheduler)):
        assert sorted(vars(one)) == sorted(vars(other))
    if hasattr(pipe, "guider"):
        assert sorted(vars(twin.guider)) == sorted(vars(pipe.guider))
    for one, other in zip(denoiser(name, twin).modules(), denoiser(name, pipe).modules(), strict=True):
        assert sorted(vars(one)) == sorted(vars(other))
    assert torch.equal(run(name, pipe), run(name, twin))


# Guiders ------------------------------------------------------------------------------------------


def _skip(**how: Any) -> Any:
    from diffusers.hooks import LayerSkipConfig

    return LayerSkipConfig(**{"indices": [1], "fqn": "blocks", **how})


def _guiders() -> dict[str, Callable[[], Any]]:
    import diffusers
    from diffusers.hooks import SmoothedEnergyGuidanceConfig

    def slg(**more: Any) -> Any:
        options = {"skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 0.9}
        return diffusers.SkipLayerGuidance(3.0, **{**options, "skip_layer_config": _skip(), **more})

    def seg() -> Any:
        config = SmoothedEnergyGuidanceConfig(indices=[1], fqn="blocks")
        options = {"seg_guidance_start": 0.0, "seg_guidance_stop": 0.9, "seg_guidance_config": config}
        return diffusers.SmoothedEnergyGuidance(3.0, seg_guidance_scale=2.0, **options)

    return {
        "cfg": lambda: diffusers.ClassifierFreeGuidance(3.0),
        "cfg, part": lambda: diffusers.ClassifierFreeGuidance(3.0, start=0.3, stop=0.8),
        "cfg, off": lambda: diffusers.ClassifierFreeGuidance(1.0),
        "apg": lambda: diffusers.AdaptiveProjectedGuidance(3.0, eta=0.5),
        "auto": lambda: diffusers.AutoGuidance(3.0, auto_guidance_config=_skip(dropout=0.3)),
        "slg": slg,
        "slg, last block": lambda: slg(skip_layer_config=_skip(indices=[2])),
        "slg, attention scores": lambda: slg(skip_layer_config=_skip(skip_attention=False, dropout=0.5)),
        "slg, cfg later": lambda: slg(start=0.5),
        "seg": seg,
        "tcfg": lambda: diffusers.TangentialClassifierFreeGuidance(3.0),
        "zero": lambda: diffusers.ClassifierFreeZeroStarGuidance(3.0),
    }


GUIDERS = list(_guiders())


@pytest.mark.parametrize(*each_value(guider=GUIDERS, sites=("auto", "block", "sublayers", "model")))
def test_a_guider_changes_no_bit_and_its_run_predicts(guider: str, sites: str) -> None:
    plain = run("wan", build("wan", _guiders()[guider]()))
    pipe = dcache.enable(build("wan", _guiders()[guider]()), methods.interval(interval=1, sites=sites))
    assert torch.equal(run("wan", pipe), plain)
    dcache.enable(pipe, methods.interval(interval=2, sites=sites))
    cached = run("wan", pipe)
    assert dcache.stats(pipe).predicted > 0
    assert bool(torch.isfinite(cached).all())
    assert torch.equal(run("wan", dcache.enable(pipe, dcache.trace(pipe))), cached)


@pytest.mark.parametrize("guider", GUIDERS)
def test_every_condition_is_predicted_from_its_own_history(guider: str) -> None:
    # With the whole model remembered, what a condition is given in a predicted evaluation is what it was
    # given in its last computed one; the guider knows whose prediction is whose.
    made = _guiders()[guider]()
    pipe = dcache.enable(build("wan", made), methods.interval(interval=2, sites="model"))
    given: list[dict[str, torch.Tensor]] = []
    forward = made.forward

    def note(**predictions: torch.Tensor) -> Any:
        given.append(predictions)
        return forward(**predictions)

    made.forward = note
    run("wan", pipe)
    plan = dcache.trace(pipe).components["transformer"]
    names = sorted({name for predictions in given for name in predictions})
    seen = dict.fromkeys(names, 0)
    for name in names:
        called = [(i, p[name]) for i, p in enumerate(given) if name in p]
        rows = plan.rows.get(name, plan.rows.get("*"))
        assert rows is not None
        for n, (i, output) in enumerate(called):
            # Computed, predicted, computed, ...: counted by this condition's own calls.
            assert rows["model"][i] is (n % 2 == 0)
            if n % 2:
                assert torch.equal(output, called[n - 1][1])
                seen[name] += 1
            elif n:
                assert not torch.equal(output, called[n - 1][1])
    assert all(seen.values()), seen


def test_perturbed_attention_inside_a_unets_bracket() -> None:
    import diffusers

    def make() -> Any:
        where = {"fqn": "mid_block.attentions.0.transformer_blocks", "indices": [0]}
        config = _skip(**where, skip_attention=False, skip_attention_scores=True, skip_ff=False)
        span = {"perturbed_guidance_start": 0.0, "perturbed_guidance_stop": 1.0}
        return diffusers.PerturbedAttentionGuidance(3.0, 2.0, **span, perturbed_guidance_config=config)

    plain = run("sdxl", build("sdxl", make()))
    assert not torch.equal(plain, run("sdxl", build("sdxl")))
    pipe = dcache.enable(build("sdxl", make()), methods.deepcache(interval=1))
    assert torch.equal(run("sdxl", pipe), plain)
    dcache.enable(pipe, methods.deepcache(interval=2))
    run("sdxl", pipe)
    stats = dcache.stats(pipe)
    # PAG begins behind the first evaluation: two conditions, then three.
    assert stats.predicted + stats.computed == 3 * STEPS - 1
    assert stats.predicted > STEPS


def test_a_guiders_own_methods_come_back_and_its_copy_is_plain() -> None:
    pipe = dcache.enable(build("wan"), EVERY_2)
    assert "prepare_models" in vars(pipe.guider)
    assert "prepare_models" not in vars(pipe.guider.new())
    assert not any(isinstance(v, MethodIntercept) for v in vars(copy.deepcopy(pipe.guider)).values())
    dcache.disable(pipe)
    assert "prepare_models" not in vars(pipe.guider)


# Components that change ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "how"),
    [
        ("transformer guider scheduler", "update_components"),
        ("transformer guider", "attribute"),
        ("scheduler", "attribute"),
    ],
)
def test_swapped_components_are_followed(parts: str, how: str) -> None:
    def swap(pipe: Any) -> None:
        every = {"transformer": wan_model(7), "guider": _guiders()["slg"](), "scheduler": FLOW_EULER()}
        new = {name: every[name] for name in parts.split()}
        if how == "update_components":
            pipe.update_components(**new)
        else:
            for name, part in new.items():
                setattr(pipe, name, part)

    twin = build("wan")
    swap(twin)
    dcache.enable(twin, EVERY_2)
    wanted = run("wan", twin)

    pipe = dcache.enable(build("wan"), EVERY_2)
    run("wan", pipe)
    old_model, old_guider = pipe.transformer, pipe.guider
    swap(pipe)
    assert torch.equal(run("wan", pipe), wanted)
    stats = dcache.stats(pipe)
    assert (stats.computed, stats.predicted) == (
        dcache.stats(twin).computed,
        dcache.stats(twin).predicted,
    )
    if "transformer" in parts:
        assert session_of(old_model) is None
        assert "prepare_models" not in vars(old_guider)


def test_two_denoisers_with_two_guiders_take_turns() -> None:
    from diffusers.modular_pipelines.wan.modular_blocks_wan22 import Wan22CoreDenoiseStep

    def make() -> Any:
        pipe = Wan22CoreDenoiseStep().init_pipeline()
        models = {"transformer": wan_model(0), "transformer_2": wan_model(1)}
        pipe.update_components(**models, scheduler=FLOW_EULER(), boundary_ratio=0.6)
        quiet(pipe._blocks)
        return pipe

    plain = run("wan", make(), steps=9)
    pipe = dcache.enable(make(), ALWAYS)
    for _ in range(2):
        assert torch.equal(run("wan", pipe, steps=9), plain)
    cached = run("wan", dcache.enable(pipe, EVERY_2), steps=9)
    parts = dcache.stats(pipe).components
    assert {name: part.predicted for name, part in parts.items()} == {"transformer": 4, "transformer_2": 4}
    assert all(part.bytes_now == 0 for part in parts.values())
    assert torch.equal(run("wan", dcache.enable(make(), dcache.trace(pipe)), steps=9), cached)
