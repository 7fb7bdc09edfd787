"""Entries: videos from UNets with temporal layers."""

from __future__ import annotations

from tests.builders import model
from tests.families.unets import SVD, sdxl_model
from tests.pipelines import NOISE_SAMPLERS, sd_model
from tests.zoo.entry import Entry
from tests.zoo.unets_control import controlnet, opened
from tests.zoo.unets_parts import (
    SIZED,
    TEXTS,
    TEXTS_XL,
    clip_images,
    clip_text,
    clip_vision,
    latent,
    picture,
    unet,
    vae,
    video,
    words,
)

DDIM, EULER = NOISE_SAMPLERS["ddim"], NOISE_SAMPLERS["euler"]
motion = model(
    "MotionAdapter",
    block_out_channels=(8, 16),
    motion_layers_per_block=1,
    motion_norm_num_groups=4,
    motion_num_attention_heads=2,
    motion_max_seq_length=8,
)


sparse = model(
    "SparseControlNetModel",
    opened,
    in_channels=4,
    conditioning_channels=3,
    layers_per_block=1,
    block_out_channels=(8, 16),
    down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
    norm_num_groups=4,
    cross_attention_dim=12,
    num_attention_heads=2,
    conditioning_embedding_out_channels=(8, 8),
    motion_max_seq_length=8,
    motion_num_attention_heads=2,
    concat_conditioning_mask=True,
    use_simplified_condition_embedding=False,
)
MOVED = {"unet": sd_model, "motion_adapter": motion, "scheduler": DDIM, "vae": vae}
FRAMES = {"num_frames": 2, **SIZED}
VIDEO = {"video": video(), **SIZED, "strength": 0.8, "num_inference_steps": 8}
unet_3d = model(
    "UNet3DConditionModel",
    block_out_channels=(8, 16),
    layers_per_block=1,
    sample_size=8,
    in_channels=4,
    out_channels=4,
    down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
    up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    cross_attention_dim=12,
    attention_head_dim=4,
    norm_num_groups=4,
)
i2vgen = model(
    "I2VGenXLUNet",
    block_out_channels=(8, 16),
    layers_per_block=1,
    sample_size=8,
    in_channels=4,
    out_channels=4,
    down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
    up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    cross_attention_dim=12,
    attention_head_dim=4,
    norm_num_groups=4,
)
TEXT_VIDEO = {"unet": unet_3d, "scheduler": DDIM, "vae": vae}

ENTRIES: tuple[Entry, ...] = (
    unet("AnimateDiffPipeline", MOVED, latent(**TEXTS, **FRAMES), fast=True),
    unet(
        "AnimateDiffControlNetPipeline",
        {**MOVED, "controlnet": controlnet},
        latent(**TEXTS, **FRAMES, conditioning_frames=video()),
    ),
    unet(
        "AnimateDiffSDXLPipeline",
        {"unet": sdxl_model, "motion_adapter": motion, "scheduler": DDIM, "vae": vae},
        latent(**TEXTS_XL, **FRAMES),
    ),
    unet(
        "AnimateDiffSparseControlNetPipeline",
        {**MOVED, "controlnet": sparse},
        latent(**TEXTS, **FRAMES, conditioning_frames=lambda: [picture(seed=8)()]),
    ),
    unet("AnimateDiffVideoToVideoPipeline", MOVED, latent(**TEXTS, **VIDEO)),
    unet(
        "AnimateDiffVideoToVideoControlNetPipeline",
        {**MOVED, "controlnet": controlnet},
        latent(**TEXTS, **VIDEO, conditioning_frames=video()),
    ),
    unet("AnimateDiffPAGPipeline", MOVED, latent(**TEXTS, **FRAMES, pag_scale=2.0)),
    unet(
        "PIAPipeline",
        {**MOVED, "unet": lambda: sd_model(in_channels=9)},
        latent(**TEXTS, **FRAMES, image=picture()),
    ),
    unet("TextToVideoSDPipeline", TEXT_VIDEO, latent(**TEXTS, **FRAMES)),
    unet(
        "VideoToVideoSDPipeline",
        TEXT_VIDEO,
        latent(**TEXTS, video=video(), strength=0.8, num_inference_steps=8),
    ),
    unet(
        "TextToVideoZeroPipeline",
        {"unet": sd_model, "scheduler": DDIM, "vae": vae, "tokenizer": words(), "text_encoder": clip_text()},
        latent(prompt="a cat", video_length=2, t0=2, t1=4, guidance_scale=3.0, **SIZED),
    ),
    unet(
        "TextToVideoZeroSDXLPipeline",
        {
            "unet": sdxl_model,
            "scheduler": DDIM,
            "vae": vae,
            "add_watermarker": False,
            "tokenizer": words(),
            "text_encoder": clip_text(4),
            "tokenizer_2": words(),
            "text_encoder_2": clip_text(8, project=8),
        },
        latent(prompt="a cat", video_length=2, t0=2, t1=4, guidance_scale=3.0, **SIZED),
    ),
    unet(
        "I2VGenXLPipeline",
        {
            "unet": i2vgen,
            "scheduler": DDIM,
            "vae": vae,
            "image_encoder": clip_vision(),
            "feature_extractor": clip_images(),
        },
        latent(**TEXTS, **FRAMES, image=picture()),
    ),
    Entry(
        "StableVideoDiffusionPipeline",
        SVD.build,
        SVD.arguments,
        refused={"fbcache": "has 0 block"},
        fast=True,
    ),
)
