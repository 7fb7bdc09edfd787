"""Entries: Wan and what is built on it: ChronoEdit, LucyEdit, SkyReels, AnyFlow."""

from __future__ import annotations

from tests.builders import model, prompts, sampler
from tests.families.video import SKYREELS, WAN_I2V, WAN_VACE, wan_vae
from tests.pipelines import UNIPC, WAN, WAN_SIZES, wan_model
from tests.zoo.entry import Entry
from tests.zoo.videos_parts import (
    TEXT,
    call,
    clip_processor,
    clip_vision,
    entry,
    frames,
    of,
    picture,
)

PROMPTS = prompts(5, TEXT)
VAE = {"vae": wan_vae()}
SEEING = {**VAE, "image_processor": clip_processor, "image_encoder": clip_vision}
# The latents, the picture's mask and its latents.
FROM_IMAGE = {"in_channels": 4 + 4 + 4, "image_dim": 8, "added_kv_proj_dim": 24}
PLAIN = {"inject_sample_info": False}
FLOW_MAP = sampler("FlowMapEulerDiscreteScheduler", shift=5.0)

_skyreels = model("SkyReelsV2Transformer3DModel", **WAN_SIZES, inject_sample_info=True)
_animate = model(
    "WanAnimateTransformer3DModel",
    **{**WAN_SIZES, **FROM_IMAGE, "num_layers": 4},
    latent_channels=4,
    motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8},
    motion_encoder_size=16,
    motion_style_dim=8,
    motion_dim=4,
    motion_encoder_dim=8,
    face_encoder_hidden_dim=8,
    face_encoder_num_heads=2,
    inject_face_latents_blocks=2,
)
_chrono = model("ChronoEditTransformer3DModel", **{**WAN_SIZES, **FROM_IMAGE})
ANYFLOW_SIZES = {**WAN_SIZES, "gate_value": 0.25, "deltatime_type": "r"}
_anyflow = model("AnyFlowTransformer3DModel", **ANYFLOW_SIZES)
_anyflow_far = model(
    "AnyFlowFARTransformer3DModel", **ANYFLOW_SIZES, compressed_patch_size=(1, 4, 4), full_chunk_limit=3
)
# All of thirteen frames at once: four in latents.
FORCING = {"num_frames": 13, "base_num_frames": 13, "guidance_scale": 3.0}

ENTRIES: tuple[Entry, ...] = (
    of(WAN, "WanPipeline"),
    of(WAN_I2V, "WanImageToVideoPipeline"),
    of(WAN_VACE, "WanVACEPipeline"),
    entry(
        "WanVideoToVideoPipeline",
        wan_model,
        call(PROMPTS, video=frames(5), num_inference_steps=8, strength=0.8, guidance_scale=3.0),
        UNIPC,
        VAE,
    ),
    # Two segments of frames, one denoising loop each.
    entry(
        "WanAnimatePipeline",
        _animate,
        call(
            PROMPTS,
            image=picture(),
            pose_video=frames(9),
            face_video=frames(9, 16),
            segment_frame_length=5,
            output_type="pt",
            guidance_scale=3.0,
        ),
        UNIPC,
        SEEING,
    ),
    # A denoiser each for the high and the low noise levels.
    entry(
        "LucyEditPipeline",
        lambda: wan_model(in_channels=8),
        call(PROMPTS, video=frames(5), num_frames=5, num_inference_steps=12, guidance_scale=3.0),
        UNIPC,
        {**VAE, "transformer_2": lambda: wan_model(seed=7, in_channels=8), "boundary_ratio": 0.8},
        fast=True,
    ),
    # From the third step on fewer frames.
    entry(
        "ChronoEditPipeline",
        _chrono,
        call(
            PROMPTS,
            image=picture(),
            num_frames=13,
            guidance_scale=3.0,
            enable_temporal_reasoning=True,
            num_temporal_reasoning_steps=2,
        ),
        UNIPC,
        SEEING,
        fast=True,
    ),
    entry(
        "SkyReelsV2Pipeline",
        lambda: _skyreels(**PLAIN),
        call(PROMPTS, num_frames=5, guidance_scale=3.0),
        UNIPC,
        VAE,
    ),
    entry(
        "SkyReelsV2ImageToVideoPipeline",
        lambda: _skyreels(**PLAIN, **FROM_IMAGE),
        call(PROMPTS, image=picture(), num_frames=5, guidance_scale=3.0),
        UNIPC,
        SEEING,
    ),
    of(SKYREELS, "SkyReelsV2DiffusionForcingPipeline", fast=True),
    entry(
        "SkyReelsV2DiffusionForcingImageToVideoPipeline",
        _skyreels,
        call(PROMPTS, image=picture(), **FORCING),
        UNIPC,
        VAE,
    ),
    entry(
        "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
        _skyreels,
        call(PROMPTS, video=frames(9), **{**FORCING, "num_frames": 17}, overlap_history=5),
        UNIPC,
        VAE,
    ),
    entry("AnyFlowPipeline", _anyflow, call(PROMPTS, num_frames=5, guidance_scale=3.0), FLOW_MAP, VAE),
    # Three chunks of one latent frame, one denoising loop each.
    entry(
        "AnyFlowFARPipeline",
        _anyflow_far,
        call(PROMPTS, num_frames=9, guidance_scale=3.0, chunk_partition=[1, 1, 1]),
        FLOW_MAP,
        VAE,
    ),
)
