"""Entries: Stable Diffusion and its siblings, from text and from pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.builders import sampler
from tests.families.unets import sdxl_model
from tests.pipelines import NOISE_SAMPLERS, sd_model
from tests.zoo.entry import STEPS, Entry
from tests.zoo.unets_parts import (
    SIZED,
    TEXTS,
    TEXTS_XL,
    clip_images,
    clip_text,
    clip_vision,
    drawn,
    latent,
    picture,
    prior,
    unet,
    vae,
    words,
)

DDIM, EULER, PNDM = NOISE_SAMPLERS["ddim"], NOISE_SAMPLERS["euler"], NOISE_SAMPLERS["pndm"]
DPM, HEUN = NOISE_SAMPLERS["dpm"], NOISE_SAMPLERS["heun"]
LCM = sampler("LCMScheduler")
UNCLIP = sampler(
    "UnCLIPScheduler", variance_type="fixed_small_log", prediction_type="sample", num_train_timesteps=1000
)
SD = {"unet": sd_model, "scheduler": DDIM}
PICTURED = {**SD, "vae": vae}
PICTURE = {"image": picture(), "strength": 0.8, "num_inference_steps": 8}
MASKED = {"image": picture(), "mask_image": picture(mode="L"), **SIZED}
XL = {"unet": sdxl_model, "scheduler": EULER, "vae": vae, "add_watermarker": False}


def sd(**config: Any) -> Callable[[], Any]:
    """What makes the UNet with another configuration."""
    return lambda: sd_model(**config)


def xl(**config: Any) -> Callable[[], Any]:
    """What makes the UNet of Stable Diffusion XL with another configuration."""
    return lambda: sdxl_model(**config)


def _normalizer() -> Any:
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
        StableUnCLIPImageNormalizer,
    )

    return StableUnCLIPImageNormalizer(embedding_dim=12).eval()


UNCLIP_PARTS = {
    "image_normalizer": _normalizer,
    "image_noising_scheduler": sampler("DDIMScheduler"),
    "tokenizer": words(),
    "text_encoder": clip_text(),
    "unet": sd(class_embed_type="projection", projection_class_embeddings_input_dim=24),
    "scheduler": DDIM,
    "vae": vae,
}
PRIOR_PARTS = {
    "prior_tokenizer": words(),
    "prior_text_encoder": clip_text(project=12),
    "prior": prior,
    "prior_scheduler": UNCLIP,
}

ENTRIES: tuple[Entry, ...] = (
    unet("StableDiffusionPipeline", SD, latent(**TEXTS, height=64, width=64), fast=True),
    unet("StableDiffusionImg2ImgPipeline", {**PICTURED, "scheduler": PNDM}, latent(**TEXTS, **PICTURE)),
    unet(
        "StableDiffusionInpaintPipeline",
        {**PICTURED, "unet": sd(in_channels=9)},
        latent(**TEXTS, **MASKED),
    ),
    unet(
        "StableDiffusionInpaintPipeline",
        PICTURED,
        latent(**TEXTS, **MASKED, strength=0.8, num_inference_steps=8),
        label="StableDiffusionInpaintPipeline (four channels)",
    ),
    unet(
        "StableDiffusionInstructPix2PixPipeline",
        {**PICTURED, "unet": sd(in_channels=8), "scheduler": EULER},
        latent(**TEXTS, image=picture(), image_guidance_scale=1.5),
        fast=True,
    ),
    unet(
        "StableDiffusionDepth2ImgPipeline",
        {**PICTURED, "unet": sd(in_channels=5)},
        latent(**TEXTS, **PICTURE, depth_map=drawn(3, 8, 8)),
    ),
    unet(
        "StableDiffusionImageVariationPipeline",
        {**PICTURED, "image_encoder": clip_vision(), "feature_extractor": clip_images(), "scheduler": PNDM},
        latent(image=picture(), **SIZED, guidance_scale=3.0),
    ),
    unet(
        "StableDiffusionLatentUpscalePipeline",
        {
            **PICTURED,
            "unet": sd(in_channels=8, out_channels=5, time_cond_proj_dim=128 + 8),
            "scheduler": EULER,
        },
        latent(**TEXTS_XL, image=drawn(5, 4, 4, 4)),
    ),
    unet(
        "StableDiffusionUpscalePipeline",
        {
            **PICTURED,
            "unet": sd(in_channels=7, num_class_embeds=350),
            "low_res_scheduler": sampler("DDPMScheduler"),
            "max_noise_level": 350,
        },
        latent(**TEXTS, image=picture(8)),
    ),
    unet(
        "StableUnCLIPPipeline",
        {**UNCLIP_PARTS, **PRIOR_PARTS},
        latent(prompt="a cat", prior_num_inference_steps=STEPS, guidance_scale=3.0, **SIZED),
        fast=True,
    ),
    unet(
        "StableUnCLIPImg2ImgPipeline",
        {**UNCLIP_PARTS, "image_encoder": clip_vision(), "feature_extractor": clip_images()},
        latent(prompt="a cat", image=picture(), guidance_scale=3.0, **SIZED),
    ),
    unet("StableDiffusionXLPipeline", {**XL, "scheduler": HEUN}, latent(**TEXTS_XL, **SIZED)),
    unet("StableDiffusionXLImg2ImgPipeline", XL, latent(**TEXTS_XL, **PICTURE)),
    unet(
        "StableDiffusionXLImg2ImgPipeline",
        XL,
        latent(**TEXTS_XL, image=picture(), denoising_start=0.4),
        label="StableDiffusionXLImg2ImgPipeline (refiner)",
    ),
    unet(
        "StableDiffusionXLImg2ImgPipeline",
        {**XL, "scheduler": DPM},
        latent(**TEXTS_XL, image=picture(), strength=0.8, num_inference_steps=5),
        label="StableDiffusionXLImg2ImgPipeline (four evaluations)",
    ),
    unet(
        "StableDiffusionXLInpaintPipeline",
        {**XL, "scheduler": DPM},
        latent(**TEXTS_XL, **MASKED, strength=0.8, num_inference_steps=8),
    ),
    unet(
        "StableDiffusionXLInstructPix2PixPipeline",
        {**XL, "unet": xl(in_channels=8)},
        latent(**TEXTS_XL, image=picture(), **SIZED),
    ),
    unet(
        "LatentConsistencyModelPipeline",
        {**SD, "unet": sd(time_cond_proj_dim=16), "scheduler": LCM},
        latent(prompt_embeds=drawn(1, 5, 12), height=64, width=64),
    ),
    unet(
        "LatentConsistencyModelImg2ImgPipeline",
        {**PICTURED, "unet": sd(time_cond_proj_dim=16), "scheduler": LCM},
        latent(prompt_embeds=drawn(1, 5, 12), **PICTURE),
    ),
)
