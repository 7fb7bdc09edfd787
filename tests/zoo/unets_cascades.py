"""Entries: DeepFloyd IF, unCLIP and Shap-E: pictures from pixels, and things from embeddings."""

from __future__ import annotations

from typing import Any

from tests.builders import model, sampler
from tests.zoo.entry import STEPS, Entry
from tests.zoo.unets_parts import (
    arguments,
    beside,
    clip_images,
    clip_text,
    clip_vision,
    drawn,
    entry,
    latent,
    picture,
    prior,
    seeded,
    seeded_module,
    unet,
    words,
)

PIXELS = sampler(
    "DDPMScheduler",
    num_train_timesteps=1000,
    beta_schedule="squaredcos_cap_v2",
    thresholding=True,
    dynamic_thresholding_ratio=0.95,
    sample_max_value=1.0,
    prediction_type="epsilon",
    variance_type="learned_range",
)
NOISING = sampler("DDPMScheduler", num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
if_unet = model(
    "UNet2DConditionModel",
    sample_size=16,
    in_channels=3,
    out_channels=6,
    layers_per_block=1,
    block_out_channels=(32, 32),
    down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    cross_attention_dim=32,
    encoder_hid_dim=12,
    attention_head_dim=8,
    addition_embed_type="text",
    addition_embed_type_num_heads=2,
    cross_attention_norm="group_norm",
    resnet_time_scale_shift="scale_shift",
    act_fn="gelu",
)


def enlarger() -> Any:
    """The UNet that is given a small picture too."""
    return if_unet(
        in_channels=6, class_embed_type="timestep", mid_block_scale_factor=1.414, time_embedding_act_fn="gelu"
    )


IF = {"unet": if_unet, "scheduler": PIXELS, "requires_safety_checker": False}
IF_LARGE = {**IF, "unet": enlarger, "image_noising_scheduler": NOISING}
IF_TEXTS = {
    "prompt_embeds": drawn(1, 5, 12),
    "negative_prompt_embeds": drawn(2, 5, 12),
    "guidance_scale": 3.0,
    "output_type": "pt",
}
PICTURE = {"image": picture(), "strength": 0.8, "num_inference_steps": 8}
MASK = {"mask_image": picture(mode="L")}
LARGE = {"height": 16, "width": 16}

FLOYD = (
    unet("IFPipeline", IF, latent(**IF_TEXTS, **LARGE), fast=True),
    unet("IFImg2ImgPipeline", IF, latent(**IF_TEXTS, **PICTURE)),
    unet("IFInpaintingPipeline", IF, latent(**IF_TEXTS, **PICTURE, **MASK)),
    unet("IFSuperResolutionPipeline", IF_LARGE, latent(**IF_TEXTS, **LARGE, image=picture(8))),
    unet(
        "IFImg2ImgSuperResolutionPipeline",
        IF_LARGE,
        latent(**IF_TEXTS, image=picture(8), original_image=picture(), strength=0.8, num_inference_steps=8),
    ),
    unet(
        "IFInpaintingSuperResolutionPipeline",
        IF_LARGE,
        latent(
            **IF_TEXTS,
            **MASK,
            image=picture(8),
            original_image=picture(),
            strength=0.8,
            num_inference_steps=8,
        ),
    ),
)


decoder = model(
    "UNet2DConditionModel",
    sample_size=8,
    in_channels=3,
    out_channels=6,
    layers_per_block=1,
    block_out_channels=(32, 32),
    down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    cross_attention_dim=32,
    attention_head_dim=8,
    class_embed_type="identity",
    resnet_time_scale_shift="scale_shift",
)
enlarging = model(
    "UNet2DModel",
    sample_size=16,
    in_channels=6,
    out_channels=3,
    layers_per_block=1,
    block_out_channels=(32, 32),
    down_block_types=("ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D"),
    up_block_types=("ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"),
)


def walk(**config: Any) -> Any:
    """What makes unCLIP's sampler."""
    return sampler("UnCLIPScheduler", num_train_timesteps=1000, **config)


UNCLIP = {
    "decoder": decoder,
    "text_encoder": clip_text(project=12),
    "tokenizer": words(),
    "text_proj": beside(
        "UnCLIPPipeline",
        "UnCLIPTextProjModel",
        clip_embeddings_dim=12,
        time_embed_dim=128,
        cross_attention_dim=32,
    ),
    "super_res_first": enlarging,
    "super_res_last": enlarging,
    "decoder_scheduler": walk(variance_type="learned_range", prediction_type="epsilon"),
    "super_res_scheduler": walk(variance_type="fixed_small_log", prediction_type="epsilon"),
}
UNCLIP_STEPS = {
    "decoder_num_inference_steps": STEPS,
    "super_res_num_inference_steps": 4,
    "decoder_guidance_scale": 3.0,
    "generator": seeded(1),
    "output_type": "pt",
}
UNCLIPS = (
    unet(
        "UnCLIPPipeline",
        {
            **UNCLIP,
            "prior": prior,
            "prior_scheduler": walk(variance_type="fixed_small_log", prediction_type="sample"),
        },
        arguments(prompt="a cat", prior_num_inference_steps=5, **UNCLIP_STEPS),
    ),
    unet(
        "UnCLIPImageVariationPipeline",
        {**UNCLIP, "feature_extractor": clip_images(), "image_encoder": clip_vision()},
        arguments(image=picture(), **UNCLIP_STEPS),
    ),
)

shap_e = model(
    "PriorTransformer",
    num_attention_heads=2,
    attention_head_dim=8,
    embedding_dim=12,
    num_embeddings=6,
    embedding_proj_dim=12,
    time_embed_dim=32,
    num_layers=2,
    clip_embed_dim=24,
    additional_embeddings=0,
    time_embed_act_fn="gelu",
    norm_in_type="layer",
    encoder_hid_proj_type=None,
    added_emb_type=None,
)


def vision() -> Any:
    """An image encoder without a projection."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=12,
        intermediate_size=12,
        projection_dim=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    return seeded_module(lambda: CLIPVisionModel(config))


KARRAS = sampler(
    "HeunDiscreteScheduler",
    beta_schedule="exp",
    num_train_timesteps=1024,
    prediction_type="sample",
    use_karras_sigmas=True,
    clip_sample=True,
    clip_sample_range=1.0,
)
THINGS = (
    entry(
        "ShapEPipeline",
        {
            "prior": shap_e,
            "scheduler": KARRAS,
            "text_encoder": clip_text(project=12),
            "tokenizer": words(),
        },
        latent(prompt="a cat", guidance_scale=3.0),
        fast=True,
    ),
    entry(
        "ShapEImg2ImgPipeline",
        {
            "prior": lambda: shap_e(clip_embed_dim=24, num_embeddings=5, embedding_proj_norm_type="layer"),
            "scheduler": KARRAS,
            "image_encoder": vision,
            "image_processor": clip_images(),
        },
        latent(image=picture(8), guidance_scale=3.0),
    ),
)

ENTRIES: tuple[Entry, ...] = (*FLOYD, *UNCLIPS, *THINGS)
