"""UNets beside SD 1.5.

SDXL: added conditions, several transformer blocks per attention. DDIM: an unconditional UNet whose pipeline
passes no flags. SVD: a video UNet with temporal blocks, conditioned on an image; guidance in one batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.builders import POOLED, Call, fixed, generator, inputs, model, pipeline, prompts, sampler, scales
from tests.pipelines import NOISE_SAMPLERS, Shape

CROSS = ("attn", "cross_attn", "mlp")

sdxl_model = model(
    "UNet2DConditionModel",
    sample_size=8,
    in_channels=4,
    out_channels=4,
    layers_per_block=1,
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2),
    attention_head_dim=(2, 4),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=4,
    projection_class_embeddings_input_dim=8 + 6 * 4,
    cross_attention_dim=12,
    norm_num_groups=4,
)


def _svd(model: nn.Module, sampler: Any) -> Any:
    from diffusers import AutoencoderKLTemporalDecoder, StableVideoDiffusionPipeline
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKLTemporalDecoder(
            down_block_types=("DownEncoderBlock2D",) * 2, block_out_channels=(32, 32), latent_channels=4
        )
        config = CLIPVisionConfig(
            hidden_size=8,
            intermediate_size=8,
            projection_dim=12,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=8,
            patch_size=4,
        )
        encoder = CLIPVisionModelWithProjection(config)
    processor = CLIPImageProcessor(crop_size=8, size=8)
    return StableVideoDiffusionPipeline(vae.eval(), encoder.eval(), model, sampler, processor)


def _svd_inputs(seed: int) -> Call:
    # Its image encoder sees the picture at its own size, without resizing.
    image = torch.rand(1, 3, 8, 8, generator=generator(seed))
    return {"image": image, "height": 16, "width": 16, "num_frames": 2}


SDXL = Shape(
    "sdxl",
    sdxl_model,
    pipeline("StableDiffusionXLPipeline", "unet", add_watermarker=False),
    inputs({**prompts(5, 12), **POOLED}),
    {name: NOISE_SAMPLERS[name] for name in ("euler", "dpm")},
    scales("batched"),
    part="unet",
    skips=4,
    sublayers=CROSS,
)
# This pipeline makes pictures only: its latents are the picture.
DDIM = Shape(
    "ddim",
    model(
        "UNet2DModel",
        sample_size=8,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=4,
    ),
    pipeline("DDIMPipeline", "unet"),
    lambda seed: {},
    {"ddim": sampler("DDIMScheduler", clip_sample=False, prediction_type="v_prediction")},
    {"off": fixed(output_type="pt")},
    part="unet",
    skips=4,
    sublayers=(),
)
SVD = Shape(
    "svd",
    # Its group norms have 32 groups whatever the configuration.
    model(
        "UNetSpatioTemporalConditionModel",
        sample_size=8,
        in_channels=8,
        out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        block_out_channels=(32, 32),
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=3 * 4,
        layers_per_block=1,
        cross_attention_dim=12,
        num_attention_heads=2,
        num_frames=2,
    ),
    _svd,
    _svd_inputs,
    {
        "euler": sampler(
            "EulerDiscreteScheduler",
            prediction_type="v_prediction",
            use_karras_sigmas=True,
            timestep_type="continuous",
            sigma_min=0.002,
            sigma_max=700.0,
        )
    },
    {
        "batched": fixed(min_guidance_scale=1.0, max_guidance_scale=3.0),
        "off": fixed(min_guidance_scale=1.0, max_guidance_scale=1.0),
    },
    part="unet",
    skips=4,
    sublayers=CROSS,
    alone=("batched",),
)
UNETS: tuple[Shape, ...] = (SDXL, DDIM, SVD)
