"""Entries: CogVideoX, ConsisID, EasyAnimate, Allegro, Latte, Mochi: streams of text and frames."""

from __future__ import annotations

from typing import Any

import torch

from tests.builders import embeds, generator, masks, model, prompts, sampler
from tests.families.video import COGVIDEOX, COGVIDEOX_NOISE, MASK, MOCHI, cogvideox_model
from tests.pipelines import FLOW_EULER
from tests.zoo.entry import Entry
from tests.zoo.videos_parts import NO_ORDER, TEXT, call, entry, frames, of, picture, spread

# The models ---------------------------------------------------------------------------------------


def _cogvideox_with_control() -> Any:
    return cogvideox_model(in_channels=8)


_consisid = model(
    "ConsisIDTransformer3DModel",
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=8,
    out_channels=4,
    time_embed_dim=8,
    text_embed_dim=TEXT,
    num_layers=3,
    sample_width=4,
    sample_height=4,
    sample_frames=5,
    max_text_seq_length=5,
    use_rotary_positional_embeddings=True,
    is_train_face=True,
    cross_attn_interval=1,
    cross_attn_dim_head=8,
    cross_attn_num_heads=2,
    LFE_id_dim=4,
    LFE_vit_dim=4,
    LFE_depth=5,
    LFE_dim_head=8,
    LFE_num_heads=2,
    LFE_num_id_token=1,
    LFE_num_querie=2,
    LFE_output_dim=21,
    LFE_ff_mult=1,
    LFE_num_scale=1,
)
_easyanimate = model(
    "EasyAnimateTransformer3DModel",
    then=spread(),
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=4,
    out_channels=4,
    patch_size=2,
    sample_width=4,
    sample_height=4,
    num_layers=3,
    mmdit_layers=2,
    time_embed_dim=8,
    text_embed_dim=TEXT,
)
_allegro = model(
    "AllegroTransformer3DModel",
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=4,
    out_channels=4,
    num_layers=3,
    cross_attention_dim=24,
    sample_height=4,
    sample_width=4,
    sample_frames=2,
    caption_channels=TEXT,
)
_latte = model(
    "LatteTransformer3DModel",
    num_attention_heads=2,
    attention_head_dim=8,
    in_channels=4,
    out_channels=8,
    num_layers=3,
    cross_attention_dim=16,
    attention_bias=True,
    sample_size=4,
    patch_size=2,
    activation_fn="gelu-approximate",
    num_embeds_ada_norm=1000,
    norm_type="ada_norm_single",
    norm_elementwise_affine=False,
    caption_channels=TEXT,
    video_length=2,
)

# The other parts ----------------------------------------------------------------------------------

_cogvideox_vae = model(
    "AutoencoderKLCogVideoX",
    down_block_types=("CogVideoXDownBlock3D",) * 4,
    up_block_types=("CogVideoXUpBlock3D",) * 4,
    block_out_channels=(4, 4, 4, 4),
    latent_channels=4,
    layers_per_block=1,
    norm_num_groups=2,
    temporal_compression_ratio=4,
)
_magvit = model(
    "AutoencoderKLMagvit",
    latent_channels=4,
    down_block_types=("SpatialDownBlock3D", *("SpatialTemporalDownBlock3D",) * 3),
    up_block_types=("SpatialUpBlock3D", *("SpatialTemporalUpBlock3D",) * 3),
    block_out_channels=[4, 4, 4, 4],
    layers_per_block=1,
    norm_num_groups=2,
)


def _consisid_pipe() -> Any:
    # diffusers offers it at its root where OpenCV is installed, which only finding faces needs.
    from diffusers.pipelines.consisid.pipeline_consisid import ConsisIDPipeline

    return ConsisIDPipeline(None, None, _cogvideox_vae(), _consisid(), DDIM())


def _without_index(pipe: Any) -> None:
    """Mends EasyAnimate's control: its call passes an argument that its own `encode_prompt` does not know."""
    encode = pipe.encode_prompt
    pipe.encode_prompt = lambda text_encoder_index, **arguments: encode(**arguments)


# Their arguments ----------------------------------------------------------------------------------

DDIM = sampler("CogVideoXDDIMScheduler", **COGVIDEOX_NOISE)
DPM = sampler("CogVideoXDPMScheduler", **COGVIDEOX_NOISE)
PROMPTS = prompts(5, TEXT)
GUIDED = {"num_frames": 5, "guidance_scale": 3.0}
VAE = {"vae": _cogvideox_vae}
MAGVIT = {"vae": _magvit}
PIXELS = torch.rand(1, 3, 5, 32, 32, generator=generator(7))
HOLE = torch.zeros(1, 1, 5, 32, 32)
HOLE[..., 8:24, 8:24] = 255.0

ENTRIES: tuple[Entry, ...] = (
    of(COGVIDEOX, "CogVideoXPipeline"),
    entry(
        "CogVideoXImageToVideoPipeline",
        _cogvideox_with_control,
        call(PROMPTS, image=picture(), **GUIDED),
        DDIM,
        VAE,
    ),
    # Its sampler draws noise, and its guidance changes from step to step.
    entry(
        "CogVideoXVideoToVideoPipeline",
        cogvideox_model,
        call(
            PROMPTS,
            video=frames(5),
            num_inference_steps=8,
            strength=0.8,
            guidance_scale=3.0,
            use_dynamic_cfg=True,
        ),
        DPM,
        VAE,
        fast=True,
    ),
    entry(
        "CogVideoXFunControlPipeline",
        _cogvideox_with_control,
        call(PROMPTS, control_video=frames(5), guidance_scale=3.0),
        DDIM,
        VAE,
    ),
    # A picture of a face is looked at between blocks.
    Entry(
        "ConsisIDPipeline",
        _consisid_pipe,
        call(
            PROMPTS,
            image=picture(),
            id_vit_hidden=[embeds(11, 3, 4)],
            id_cond=embeds(12, 4),
            **GUIDED,
        ),
    ),
    entry("EasyAnimatePipeline", _easyanimate, call(PROMPTS, **GUIDED, **masks(MASK)), FLOW_EULER, MAGVIT),
    entry(
        "EasyAnimateControlPipeline",
        lambda: _easyanimate(in_channels=12),
        call(PROMPTS, control_video=PIXELS, **GUIDED, **masks(MASK)),
        FLOW_EULER,
        MAGVIT,
        _without_index,
    ),
    entry(
        "EasyAnimateInpaintPipeline",
        lambda: _easyanimate(in_channels=12, resize_inpaint_mask_directly=False),
        call(PROMPTS, video=PIXELS, mask_video=HOLE, **GUIDED, **masks(MASK)),
        FLOW_EULER,
        MAGVIT,
    ),
    entry(
        "AllegroPipeline",
        _allegro,
        call(
            PROMPTS,
            num_frames=8,
            negative_prompt=None,
            clean_caption=False,
            guidance_scale=3.0,
            **masks(MASK),
        ),
        sampler("DDIMScheduler"),
    ),
    # Blocks of space and of time take turns.
    entry(
        "LattePipeline",
        _latte,
        call(PROMPTS, negative_prompt=None, video_length=2, clean_caption=False, guidance_scale=3.0),
        sampler("DDIMScheduler"),
        refused=NO_ORDER,
    ),
    of(MOCHI, "MochiPipeline"),
)
