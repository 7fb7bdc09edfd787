"""Entries: Stable Diffusion 3, Chroma, HiDream, AuraFlow, CogView."""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.builders import Call, inputs, model, noise_image, prompts, sampler
from tests.families.mmdit import AURAFLOW, CHROMA, COGVIEW4, HIDREAM, SD3, skipping
from tests.families.video import COGVIDEOX_NOISE
from tests.zoo.entry import Entry
from tests.zoo.images_parts import MORE_STEPS, entry, half_mask, kl_vae, opened

IMG2IMG: Call = {"strength": 0.75, "num_inference_steps": MORE_STEPS}


def _sd3(**over: Any) -> nn.Module:
    return SD3.model(0, **over) if over else SD3.model(0)


def sd3(**more: Any) -> Call:
    """Arguments of a call with guidance in one batch."""
    return {**SD3.inputs(1), "guidance_scale": 3.0, **more}


def _sd3_controlnet(masked: int = 0) -> Any:
    made = model(
        "SD3ControlNetModel",
        opened,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=8,
        pos_embed_max_size=8,
        extra_conditioning_channels=masked,
    )
    return lambda: made(1)


def _chroma_model() -> nn.Module:
    # Published configurations name this option, of which the class knows nothing.
    made: Any = CHROMA.model(0)
    made.register_to_config(guidance_embeds=False)
    return made


def _chroma(**more: Any) -> Call:
    return {**CHROMA.inputs(1), "guidance_scale": 3.0, **more}


_cogview3 = model(
    "CogView3PlusTransformer2DModel",
    in_channels=4,
    out_channels=4,
    num_layers=3,
    attention_head_dim=8,
    num_attention_heads=2,
    text_embed_dim=12,
    time_embed_dim=8,
    condition_dim=4,
    pos_embed_max_size=8,
    sample_size=8,
)
VAE4, VAE16 = kl_vae(4), kl_vae(16)

ENTRIES: tuple[Entry, ...] = (
    entry("StableDiffusion3Pipeline", _sd3, lambda: {**SD3.inputs(1), **skipping(3)}),
    entry("StableDiffusion3Img2ImgPipeline", _sd3, lambda: sd3(image=noise_image(), **IMG2IMG), vae=VAE4),
    entry(
        "StableDiffusion3InpaintPipeline",
        lambda: _sd3(in_channels=16, out_channels=16),
        lambda: sd3(image=noise_image(), mask_image=half_mask(), **IMG2IMG),
        vae=VAE16,
    ),
    entry(
        "StableDiffusion3ControlNetPipeline",
        _sd3,
        lambda: sd3(control_image=noise_image()),
        vae=VAE4,
        controlnet=_sd3_controlnet(),
    ),
    entry(
        "StableDiffusion3ControlNetInpaintingPipeline",
        _sd3,
        lambda: sd3(control_image=noise_image(), control_mask=half_mask()),
        vae=VAE4,
        controlnet=_sd3_controlnet(1),
    ),
    entry("StableDiffusion3PAGPipeline", _sd3, lambda: sd3(pag_scale=2.0)),
    entry(
        "StableDiffusion3PAGImg2ImgPipeline",
        _sd3,
        lambda: sd3(image=noise_image(), pag_scale=2.0, **IMG2IMG),
        vae=VAE4,
    ),
    entry("ChromaPipeline", lambda: CHROMA.model(0), _chroma),
    entry(
        "ChromaImg2ImgPipeline",
        lambda: CHROMA.model(0),
        lambda: _chroma(image=noise_image(), **IMG2IMG),
        vae=VAE4,
    ),
    entry(
        "ChromaInpaintPipeline",
        _chroma_model,
        lambda: _chroma(image=noise_image(), mask_image=half_mask(), **IMG2IMG),
        vae=VAE4,
    ),
    entry(
        "HiDreamImagePipeline",
        lambda: HIDREAM.model(0),
        lambda: {**HIDREAM.inputs(1), "guidance_scale": 3.0},
        # It scales every picture to this area.
        change=lambda pipe: setattr(pipe, "default_sample_size", 8),
    ),
    entry(
        "AuraFlowPipeline", lambda: AURAFLOW.model(0), lambda: {**AURAFLOW.inputs(1), "guidance_scale": 3.0}
    ),
    entry(
        "CogView3PlusPipeline",
        _cogview3,
        lambda: inputs(prompts(16, 12))(1),
        sampler=sampler("CogVideoXDDIMScheduler", **COGVIDEOX_NOISE),
    ),
    entry(
        "CogView4Pipeline", lambda: COGVIEW4.model(0), lambda: {**COGVIEW4.inputs(1), "guidance_scale": 3.0}
    ),
    entry(
        "CogView4ControlPipeline",
        lambda: COGVIEW4.model(0, in_channels=8),
        lambda: {**COGVIEW4.inputs(1), "control_image": noise_image(), "guidance_scale": 3.0},
        vae=VAE4,
    ),
)
