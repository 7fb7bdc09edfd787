"""Entries: modular pipelines of diffusers, from the text inputs to the latents."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch

from tests.builders import Call, embeds, generator, sampler
from tests.families.mmdit import FLUX2, QWEN, SD3
from tests.families.single import Z_IMAGE
from tests.families.unets import sdxl_model
from tests.families.video import HUNYUAN15, LTX, LTX2, MASK
from tests.pipelines import FLOW_EULER, NOISE_SAMPLERS, UNIPC, flux_model, wan_model
from tests.zoo.entry import STEPS, Entry
from tests.zoo.videos_hunyuan import guider
from tests.zoo.videos_parts import TEXT
from tests.zoo.videos_worlds import helios


def _quiet(blocks: Any) -> None:
    """No progress bars, however deep."""
    if hasattr(blocks, "set_progress_bar_config"):
        blocks.set_progress_bar_config(disable=True)
    for block in getattr(blocks, "sub_blocks", {}).values():
        _quiet(block)


def modular(
    name: str,
    blocks: str,
    parts: Mapping[str, Callable[[], Any]],
    inputs: Callable[[], Call],
    output: str = "latents",
    **flags: Any,
) -> Entry:
    """An entry of a modular pipeline.

    Args:
        name: class name in diffusers.
        blocks: module, within diffusers' modular pipelines, and class of its blocks.
        parts: its components.
        inputs: makes the arguments of a call.
        output: what a call returns.
        flags: `fast`, `refused`, `nothing`.
    """

    def build() -> Any:
        import diffusers

        module, kind = blocks.split(":")
        made = getattr(import_module(f"diffusers.modular_pipelines.{module}"), kind)()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            pipe = getattr(diffusers, name)(blocks=made)
            pipe.update_components(**{part: make() for part, make in parts.items()})
        _quiet(pipe.blocks)
        _quiet(pipe._blocks)
        return pipe

    return Entry(name, build, lambda: {**inputs(), "output": output}, **flags)


def _call(random: Mapping[str, tuple[int, ...]], size: int = 64, **fixed: Any) -> Callable[[], Call]:
    """How to make the arguments of a call.

    Args:
        random: name -> size without the batch.
        size: height and width.
        fixed: arguments that are always the same.
    """

    def make() -> Call:
        drawn = {name: embeds(i, *shape) for i, (name, shape) in enumerate(random.items(), 1)}
        usual = {"height": size, "width": size, "num_inference_steps": STEPS, "generator": generator(101)}
        return {**usual, **drawn, **fixed}

    return make


def _weak_guider() -> Any:
    from diffusers import ClassifierFreeGuidance

    return ClassifierFreeGuidance(guidance_scale=2.0)


def _zero_star() -> Any:
    from diffusers import ClassifierFreeZeroStarGuidance

    return ClassifierFreeZeroStarGuidance(guidance_scale=3.0)


def _ltx2_guider() -> Any:
    from diffusers import LTX2Guidance

    return LTX2Guidance()


PROMPTS = {"prompt_embeds": (5, TEXT), "negative_prompt_embeds": (5, TEXT)}
WAN = {"transformer": wan_model, "scheduler": UNIPC, "guider": guider}
WAN22 = {**WAN, "transformer_2": lambda: wan_model(7), "guider_2": _weak_guider}
FLUX = {"transformer": flux_model, "scheduler": FLOW_EULER}
# Without a VAE the pipeline knows no number of channels.
FRAMES = {"num_frames": 5, "latents": torch.randn(1, 4, 2, 4, 4, generator=generator(5))}
FROM_IMAGE = {"in_channels": 4 + 4 + 4}
WORDS = torch.ones(1, 5, dtype=torch.int64)
QWEN_MASKS = {"prompt_embeds_mask": WORDS, "negative_prompt_embeds_mask": WORDS}
STAGES = sampler("HeliosScheduler", use_dynamic_shifting=True)
HELIOS = {
    "num_frames": 18,
    "num_latent_frames_per_chunk": 3,
    "history_sizes": [4, 2, 1],
}


def _of(model: Callable[[int], Any]) -> dict[str, Callable[[], Any]]:
    """The transformer of a family and its sampler."""
    return {"transformer": lambda: model(0), "scheduler": FLOW_EULER}


ENTRIES: tuple[Entry, ...] = (
    modular(
        "WanModularPipeline", "wan.modular_blocks_wan:WanCoreDenoiseStep", WAN, _call(PROMPTS, 32, **FRAMES)
    ),
    modular(
        "WanImage2VideoModularPipeline",
        "wan.modular_blocks_wan_i2v:WanImage2VideoCoreDenoiseStep",
        {**WAN, "transformer": lambda: wan_model(0, **FROM_IMAGE, image_dim=8, added_kv_proj_dim=24)},
        _call({**PROMPTS, "image_embeds": (4, 8), "image_condition_latents": (8, 2, 4, 4)}, 32, **FRAMES),
    ),
    # A denoiser and a guider each for the high and the low noise levels.
    modular(
        "Wan22ModularPipeline",
        "wan.modular_blocks_wan22:Wan22CoreDenoiseStep",
        WAN22,
        _call(PROMPTS, 32, **FRAMES, num_inference_steps=12),
    ),
    modular(
        "Wan22Image2VideoModularPipeline",
        "wan.modular_blocks_wan22_i2v:Wan22Image2VideoCoreDenoiseStep",
        {
            **WAN22,
            "transformer": lambda: wan_model(0, **FROM_IMAGE),
            "transformer_2": lambda: wan_model(7, **FROM_IMAGE),
        },
        _call({**PROMPTS, "image_condition_latents": (8, 2, 4, 4)}, 32, **FRAMES, num_inference_steps=12),
    ),
    modular(
        "FluxModularPipeline",
        "flux.modular_blocks_flux:FluxCoreDenoiseStep",
        FLUX,
        _call({"prompt_embeds": (5, TEXT), "pooled_prompt_embeds": (8,)}),
        fast=True,
    ),
    # The picture's tokens follow the noise's.
    modular(
        "FluxKontextModularPipeline",
        "flux.modular_blocks_flux_kontext:FluxKontextCoreDenoiseStep",
        FLUX,
        _call(
            {"prompt_embeds": (5, TEXT), "pooled_prompt_embeds": (8,), "image_latents": (16, 8, 8)},
            max_area=64 * 64,
        ),
    ),
    modular(
        "Flux2ModularPipeline",
        "flux2.modular_blocks_flux2:Flux2CoreDenoiseStep",
        _of(FLUX2.model),
        _call({"prompt_embeds": (5, TEXT)}),
    ),
    modular(
        "Flux2KleinModularPipeline",
        "flux2.modular_blocks_flux2_klein:Flux2KleinCoreDenoiseStep",
        _of(FLUX2.model),
        _call({"prompt_embeds": (5, TEXT)}),
    ),
    modular(
        "Flux2KleinBaseModularPipeline",
        "flux2.modular_blocks_flux2_klein_base:Flux2KleinBaseCoreDenoiseStep",
        {**_of(FLUX2.model), "guider": guider},
        _call(PROMPTS),
    ),
    modular(
        "QwenImageModularPipeline",
        "qwenimage.modular_blocks_qwenimage:QwenImageCoreDenoiseStep",
        {**_of(QWEN.model), "guider": guider},
        _call(PROMPTS, **QWEN_MASKS),
    ),
    modular(
        "QwenImageEditModularPipeline",
        "qwenimage.modular_blocks_qwenimage_edit:QwenImageEditCoreDenoiseStep",
        {**_of(QWEN.model), "guider": guider},
        _call({**PROMPTS, "image_latents": (4, 1, 8, 8)}, **QWEN_MASKS),
    ),
    # Two pictures of different sizes.
    modular(
        "QwenImageEditPlusModularPipeline",
        "qwenimage.modular_blocks_qwenimage_edit_plus:QwenImageEditPlusCoreDenoiseStep",
        {**_of(QWEN.model), "guider": guider},
        _call(PROMPTS, **QWEN_MASKS, image_latents=[embeds(7, 4, 1, 8, 8), embeds(8, 4, 1, 4, 8)]),
    ),
    # Layers of a picture, which follow the tokens of the picture itself.
    modular(
        "QwenImageLayeredModularPipeline",
        "qwenimage.modular_blocks_qwenimage_layered:QwenImageLayeredCoreDenoiseStep",
        {
            **_of(lambda seed: QWEN.model(seed, use_layer3d_rope=True, use_additional_t_cond=True)),
            "guider": guider,
        },
        _call({**PROMPTS, "image_latents": (1, 4, 8, 8)}, **QWEN_MASKS, layers=2),
    ),
    modular(
        "ZImageModularPipeline",
        "z_image.modular_blocks_z_image:ZImageCoreDenoiseStep",
        {**_of(Z_IMAGE.model), "guider": guider},
        _call({}, prompt_embeds=[embeds(1, 5, TEXT)[0]], negative_prompt_embeds=[embeds(2, 4, TEXT)[0]]),
    ),
    modular(
        "HunyuanVideo15ModularPipeline",
        "hunyuan_video1_5.modular_blocks_hunyuan_video1_5:HunyuanVideo15CoreDenoiseStep",
        {**_of(HUNYUAN15.model), "guider": guider},
        _call(
            {**PROMPTS, "prompt_embeds_2": (4, 6), "negative_prompt_embeds_2": (4, 6)},
            32,
            **FRAMES,
            prompt_embeds_mask=MASK,
            negative_prompt_embeds_mask=MASK,
            prompt_embeds_mask_2=MASK[:, 1:],
            negative_prompt_embeds_mask_2=MASK[:, 1:],
        ),
    ),
    modular(
        "LTXModularPipeline",
        "ltx.modular_blocks_ltx:LTXCoreDenoiseStep",
        {**_of(LTX.model), "guider": guider},
        _call(PROMPTS, num_frames=9, prompt_attention_mask=MASK, negative_prompt_attention_mask=MASK),
    ),
    modular(
        "LTX2ModularPipeline",
        "ltx2.modular_blocks_ltx2:LTX2CoreDenoiseStep",
        {
            **_of(LTX2.model),
            "audio_vae": lambda: LTX2.build().audio_vae,
            "guider": _ltx2_guider,
            "audio_guider": _ltx2_guider,
        },
        _call(
            {
                "connector_prompt_embeds": (5, TEXT),
                "connector_audio_prompt_embeds": (5, TEXT),
                "negative_connector_prompt_embeds": (5, TEXT),
                "negative_connector_audio_prompt_embeds": (5, TEXT),
            },
            num_frames=9,
            connector_attention_mask=MASK,
            negative_connector_attention_mask=MASK,
            batch_size=1,
            dtype=torch.float32,
        ),
    ),
    modular(
        "StableDiffusion3ModularPipeline",
        "stable_diffusion_3.modular_blocks_stable_diffusion_3:StableDiffusion3T2ICoreDenoiseStep",
        {**_of(SD3.model), "guider": guider},
        _call({**PROMPTS, "pooled_prompt_embeds": (8,), "negative_pooled_prompt_embeds": (8,)}),
    ),
    modular(
        "StableDiffusionXLModularPipeline",
        "stable_diffusion_xl.modular_blocks_stable_diffusion_xl:StableDiffusionXLCoreDenoiseStep",
        {"unet": lambda: sdxl_model(0), "scheduler": NOISE_SAMPLERS["euler"], "guider": guider},
        _call({**PROMPTS, "pooled_prompt_embeds": (8,), "negative_pooled_prompt_embeds": (8,)}),
        refused={"fbcache": r"has 0 block\(s\)"},
    ),
    # Chunks of frames, one denoising loop each.
    modular(
        "HeliosModularPipeline",
        "helios.modular_blocks_helios:HeliosCoreDenoiseStep",
        {
            "transformer": helios,
            "scheduler": sampler("HeliosScheduler", stage_range=[0, 1], stages=1, use_dynamic_shifting=True),
            "guider": guider,
        },
        _call(PROMPTS, 32, **HELIOS),
        "latent_chunks",
    ),
    # In each chunk one denoising loop for every stage of a pyramid.
    modular(
        "HeliosPyramidModularPipeline",
        "helios.modular_blocks_helios_pyramid:HeliosPyramidCoreDenoiseStep",
        {"transformer": helios, "scheduler": STAGES, "guider": _zero_star},
        _call(PROMPTS, 64, **HELIOS, pyramid_num_inference_steps_list=[3, 3, 3]),
        "latent_chunks",
    ),
    modular(
        "HeliosPyramidDistilledModularPipeline",
        "helios.modular_blocks_helios_pyramid_distilled:HeliosPyramidDistilledCoreDenoiseStep",
        {"transformer": helios, "scheduler": sampler("HeliosDMDScheduler"), "guider": guider},
        _call(PROMPTS, 64, **HELIOS, pyramid_num_inference_steps_list=[3, 3, 3]),
        "latent_chunks",
    ),
)
