"""Entries: unconditional UNets, and the first editors of pictures; most are called deprecated now."""

from __future__ import annotations

from typing import Any

import torch

from tests.builders import sampler
from tests.families.unets import DDIM as DDIM_SHAPE
from tests.pipelines import NOISE_SAMPLERS, sd_model
from tests.zoo.entry import STEPS, Entry
from tests.zoo.unets_kandinsky import movq
from tests.zoo.unets_parts import (
    SIZED,
    TEXTS,
    arguments,
    clip_text,
    drawn,
    latent,
    picture,
    seeded,
    unet,
    vae,
    words,
)

DDIM, EULER, PNDM = NOISE_SAMPLERS["ddim"], NOISE_SAMPLERS["euler"], NOISE_SAMPLERS["pndm"]
plain_unet = DDIM_SHAPE.model
TENSORS = {"num_inference_steps": STEPS, "generator": seeded(1), "output_type": "np"}


def latent_unet(**config: Any) -> Any:
    """What makes an unconditional UNet for latents."""
    return lambda: plain_unet(0, **{"in_channels": 4, "out_channels": 4, **config})


UNCONDITIONAL = (
    unet("DDPMPipeline", {"unet": plain_unet, "scheduler": sampler("DDPMScheduler")}, arguments(**TENSORS)),
    unet(
        "DDIMPipeline",
        {"unet": plain_unet, "scheduler": sampler("DDIMScheduler")},
        arguments(**TENSORS, eta=0.5),
        fast=True,
    ),
    unet("PNDMPipeline", {"unet": plain_unet, "scheduler": sampler("PNDMScheduler")}, arguments(**TENSORS)),
    unet(
        "ScoreSdeVePipeline",
        {"unet": plain_unet, "scheduler": sampler("ScoreSdeVeScheduler", sigma_max=1.0)},
        arguments(**TENSORS),
    ),
    unet(
        "KarrasVePipeline",
        {"unet": plain_unet, "scheduler": sampler("KarrasVeScheduler", sigma_max=1.0)},
        arguments(**TENSORS),
    ),
    unet(
        "RePaintPipeline",
        {"unet": plain_unet, "scheduler": sampler("RePaintScheduler")},
        arguments(
            **TENSORS, image=picture(32), mask_image=picture(32, mode="L"), jump_length=2, jump_n_sample=2
        ),
    ),
    unet(
        "ConsistencyModelPipeline",
        {
            "unet": lambda: plain_unet(0, num_class_embeds=10),
            "scheduler": sampler("CMStochasticIterativeScheduler", num_train_timesteps=40),
        },
        arguments(**TENSORS, class_labels=3),
    ),
    unet(
        "LDMPipeline",
        {"unet": latent_unet(), "scheduler": sampler("DDIMScheduler"), "vqvae": movq},
        arguments(**TENSORS),
    ),
    unet(
        "LDMSuperResolutionPipeline",
        {
            "unet": latent_unet(in_channels=6, out_channels=3),
            "scheduler": sampler("DDIMScheduler"),
            "vqvae": lambda: movq(latent_channels=3, vq_embed_dim=3),
        },
        arguments(**TENSORS, image=picture(32)),
    ),
)

SD = {"unet": sd_model, "scheduler": DDIM, "vae": vae, "requires_safety_checker": False}
TALKING = {**SD, "text_encoder": clip_text(), "tokenizer": words()}
SAID = {"prompt": "a cat", "guidance_scale": 3.0}
MASKED = {"image": picture(), "mask_image": picture(mode="L")}

EDITORS = (
    unet("StableDiffusionPanoramaPipeline", SD, latent(**TEXTS, **SIZED)),
    # Views are 64 latents wide, and 8 apart.
    unet(
        "StableDiffusionPanoramaPipeline",
        {**SD, "vae": None},
        latent(**TEXTS, height=64, width=8 * 80),
        label="StableDiffusionPanoramaPipeline (views)",
    ),
    unet(
        "StableDiffusionPanoramaPipeline",
        {**SD, "vae": None},
        latent(**TEXTS, height=64, width=8 * 80, view_batch_size=2, circular_padding=True),
        label="StableDiffusionPanoramaPipeline (views in batches)",
    ),
    unet("StableDiffusionSAGPipeline", SD, latent(**TEXTS, **SIZED, sag_scale=0.75)),
    unet(
        "StableDiffusionLDM3DPipeline",
        {**SD, "vae": lambda: vae(in_channels=6, out_channels=6)},
        latent(**{**TEXTS, **SIZED, "output_type": "np"}),
    ),
    unet(
        "SemanticStableDiffusionPipeline",
        TALKING,
        latent(**SAID, **SIZED, editing_prompt="a dog", edit_warmup_steps=1),
    ),
    unet(
        "StableDiffusionAttendAndExcitePipeline",
        TALKING,
        latent(
            **SAID, height=32, width=32, token_indices=lambda: [1], max_iter_to_alter=2, attn_res=(16, 16)
        ),
    ),
    unet("StableDiffusionModelEditingPipeline", TALKING, latent(**SAID, **SIZED)),
    unet(
        "StableDiffusionParadigmsPipeline",
        {**SD, "scheduler": sampler("DDIMParallelScheduler", steps_offset=1, clip_sample=False)},
        latent(**TEXTS, **SIZED, parallel=3),
    ),
    unet(
        "StableDiffusionDiffEditPipeline",
        {**SD, "inverse_scheduler": sampler("DDIMInverseScheduler", clip_sample=False)},
        latent(
            **TEXTS,
            mask_image=lambda: torch.ones(1, 8, 8),
            image_latents=drawn(5, 6, 4, 8, 8),
            num_inference_steps=8,
        ),
    ),
    unet(
        "StableDiffusionPix2PixZeroPipeline",
        {**TALKING, "inverse_scheduler": sampler("DDIMInverseScheduler", clip_sample=False)},
        latent(**SAID, **SIZED, source_embeds=drawn(5, 5, 12), target_embeds=drawn(6, 5, 12)),
    ),
    unet(
        "CycleDiffusionPipeline",
        {**TALKING, "scheduler": sampler("DDIMScheduler", clip_sample=False, set_alpha_to_one=False)},
        latent(**SAID, source_prompt="a dog", image=picture(), strength=0.8, num_inference_steps=8),
    ),
    unet("AltDiffusionPipeline", SD, latent(**TEXTS, **SIZED)),
    unet(
        "AltDiffusionImg2ImgPipeline",
        SD,
        latent(**TEXTS, image=picture(), strength=0.8, num_inference_steps=8),
    ),
)


def depth_of(name: str, **more: Any) -> Entry:
    return unet(
        name,
        {
            "unet": lambda: sd_model(in_channels=8),
            "scheduler": DDIM,
            "vae": vae,
            "text_encoder": clip_text(),
            "tokenizer": words(),
        },
        arguments(image=picture(), num_inference_steps=STEPS, processing_resolution=0, generator=seeded(1)),
        **more,
    )


MARIGOLDS = (
    depth_of("MarigoldDepthPipeline"),
    depth_of("MarigoldNormalsPipeline"),
)

ENTRIES: tuple[Entry, ...] = (*UNCONDITIONAL, *EDITORS, *MARIGOLDS)
