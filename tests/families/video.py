"""Video and audio-video transformers.

Wan image-to-video (2.1, with an image encoder), Wan 2.2 with two denoisers, Wan 2.2 5B with a timestep per
token, Wan VACE (blocks of hints beside the trunk); SkyReels (a sampler per frame); HunyuanVideo (a refiner
beside the trunk), from an image too (its tokens stay clean), HunyuanVideo 1.5 (guiders); LTX, from text and
from an image (a timestep per token), LTX2 (video and audio, a copied sampler); CogVideoX; Mochi (rising
timesteps).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.builders import (
    Call,
    embeds,
    fixed,
    generator,
    inputs,
    masks,
    model,
    pipeline,
    prompts,
    sampler,
    scales,
)
from tests.pipelines import FLOW_EULER, UNIPC, WAN_SIZES, Shape, wan_inputs, wan_model

# The models ---------------------------------------------------------------------------------------


def _wan_i2v_model(seed: int) -> nn.Module:
    # Latents, the encoded image and its mask come in one tensor.
    return wan_model(seed, in_channels=4 + 4 + 4, image_dim=8, added_kv_proj_dim=24)


_wan_vace_model = model(
    "WanVACETransformer3DModel",
    **WAN_SIZES,
    vace_layers=[0, 2],
    # The encoded video, kept and changed, and eight by eight pixels of its mask.
    vace_in_channels=4 + 4 + 64,
)
_hunyuan_model = model(
    "HunyuanVideoTransformer3DModel",
    in_channels=4,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=10,
    num_layers=2,
    num_single_layers=2,
    num_refiner_layers=2,
    mlp_ratio=2.0,
    text_embed_dim=12,
    pooled_projection_dim=8,
    rope_axes_dim=(2, 4, 4),
)


def _hunyuan_i2v_model(seed: int) -> nn.Module:
    return _hunyuan_model(seed, image_condition_type="token_replace")


_hunyuan15_model = model(
    "HunyuanVideo15Transformer3DModel",
    in_channels=4 + 4 + 1,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=10,
    num_layers=3,
    num_refiner_layers=1,
    mlp_ratio=2.0,
    text_embed_dim=12,
    text_embed_2_dim=6,
    image_embed_dim=8,
    rope_axes_dim=(2, 4, 4),
    target_size=16,
    task_type="t2v",
)
_ltx_model = model(
    "LTXVideoTransformer3DModel",
    in_channels=4,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=8,
    cross_attention_dim=16,
    num_layers=3,
    caption_channels=12,
)
ltx2_model = model(
    "LTX2VideoTransformer3DModel",
    in_channels=4,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=8,
    cross_attention_dim=16,
    audio_in_channels=4,
    audio_out_channels=4,
    audio_num_attention_heads=2,
    audio_attention_head_dim=4,
    audio_cross_attention_dim=8,
    num_layers=3,
    caption_channels=12,
    rope_double_precision=False,
    rope_type="split",
    perturbed_attn=True,
)
cogvideox_model = model(
    "CogVideoXTransformer3DModel",
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=4,
    out_channels=4,
    time_embed_dim=8,
    text_embed_dim=12,
    num_layers=3,
    sample_width=4,
    sample_height=4,
    sample_frames=5,
    max_text_seq_length=5,
    use_rotary_positional_embeddings=True,
)
_mochi_model = model(
    "MochiTransformer3DModel",
    num_attention_heads=2,
    attention_head_dim=8,
    num_layers=3,
    pooled_projection_dim=12,
    in_channels=4,
    text_embed_dim=16,
    time_embed_dim=8,
    max_sequence_length=5,
)

# The other parts ----------------------------------------------------------------------------------


def wan_vae(channels: int = 4, name: str = "AutoencoderKLWan", **over: Any) -> Callable[..., nn.Module]:
    """How to build Wan's VAE, or one of the same parts: 8 times smaller, 4 times shorter."""
    return model(
        name,
        base_dim=3,
        z_dim=channels,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * channels,
        latents_std=[1.0] * channels,
        **over,
    )


_wan_vae = wan_vae()
hunyuan_vae = model(
    "AutoencoderKLHunyuanVideo",
    latent_channels=4,
    block_out_channels=(4, 4, 4, 4),
    layers_per_block=1,
    norm_num_groups=4,
)
_hunyuan15_vae = model(
    "AutoencoderKLHunyuanVideo15",
    latent_channels=4,
    block_out_channels=(16, 16),
    layers_per_block=1,
    spatial_compression_ratio=4,
    temporal_compression_ratio=4,
    downsample_match_channel=False,
    upsample_match_channel=False,
)


def _clip() -> tuple[Any, nn.Module]:
    """A processor and an encoder of images, 8 channels wide."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        num_attention_heads=2,
        num_hidden_layers=2,
        image_size=4,
        patch_size=2,
    )
    return CLIPImageProcessor(crop_size=4, size=4), CLIPVisionModel(config).eval()


def _ltx2_parts() -> tuple[nn.Module, nn.Module, nn.Module]:
    """The VAEs, of which only the latents' statistics matter here, and the text connectors."""
    from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video
    from diffusers.pipelines.ltx2 import LTX2TextConnectors

    torch.manual_seed(0)
    video = AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8,),
        down_block_types=("LTX2VideoDownBlock3D",),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatial",),
        upsample_type=("spatiotemporal",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )
    audio = AutoencoderKLLTX2Audio(
        base_channels=4, ch_mult=(1,), num_res_blocks=1, resolution=32, latent_channels=2, mel_bins=8
    )
    connectors = LTX2TextConnectors(
        caption_channels=12,
        text_proj_in_factor=2,
        video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=6,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=6,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None,
        connector_rope_base_seq_len=32,
        rope_double_precision=False,
        rope_type="split",
    )
    return video.eval(), audio.eval(), connectors.eval()


# The pipelines ------------------------------------------------------------------------------------


def _wan_i2v(denoiser: nn.Module, sampler: Any) -> Any:
    processor, encoder = _clip()
    parts = {"image_processor": lambda: processor, "image_encoder": lambda: encoder}
    return pipeline("WanImageToVideoPipeline", vae=_wan_vae, **parts)(denoiser, sampler)


def _hunyuan15(denoiser: nn.Module, sampler: Any) -> Any:
    from diffusers import ClassifierFreeGuidance

    guider = ClassifierFreeGuidance(guidance_scale=3.0)
    made = pipeline("HunyuanVideo15Pipeline", vae=_hunyuan15_vae, guider=guider)
    pipe = made(denoiser, sampler)
    pipe.vision_num_semantic_tokens = 3
    return pipe


def _ltx2(denoiser: nn.Module, sampler: Any) -> Any:
    from diffusers import LTX2Pipeline

    video, audio, connectors = _ltx2_parts()
    return LTX2Pipeline(sampler, video, audio, None, None, connectors, denoiser, None)


# Their arguments ----------------------------------------------------------------------------------

MASK = torch.tensor([[1, 1, 1, 1, 0]])


def image(seed: int) -> Any:
    """A picture of noise."""
    from PIL import Image

    pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=generator(seed + 2))
    return Image.fromarray(pixels.numpy())


def _wan_i2v_inputs(seed: int) -> Call:
    return {**wan_inputs(seed), "image": image(seed)}


_hunyuan_inputs = inputs(
    {"prompt_embeds": (5, 12), "pooled_prompt_embeds": (8,)}, 32, prompt_attention_mask=MASK, num_frames=5
)


def _hunyuan_true_cfg() -> Call:
    return {
        "true_cfg_scale": 3.0,
        "negative_prompt_embeds": embeds(8, 5, 12),
        "negative_pooled_prompt_embeds": embeds(9, 8),
        "negative_prompt_attention_mask": torch.tensor([[1, 1, 1, 0, 0]]),
    }


def _ltx2_guidance(text: float, perturbed: float, modality: float) -> Call:
    return {
        "guidance_scale": text,
        "stg_scale": perturbed,
        "modality_scale": modality,
        "audio_guidance_scale": text,
        "audio_stg_scale": perturbed,
        "audio_modality_scale": modality,
        "spatio_temporal_guidance_blocks": [1] if perturbed else None,
    }


# The families -------------------------------------------------------------------------------------

GUIDED = {"sequential": fixed(guidance_scale=3.0)}
SHIFTED = sampler(
    "FlowMatchEulerDiscreteScheduler",
    use_dynamic_shifting=True,
    base_shift=0.95,
    max_shift=2.05,
    base_image_seq_len=1024,
    max_image_seq_len=4096,
    shift_terminal=0.1,
)
COGVIDEOX_NOISE: Call = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 3.0,
    "timestep_spacing": "trailing",
}
CROSS = ("attn", "cross_attn", "mlp")

WAN_I2V = Shape(
    "wan_i2v",
    _wan_i2v_model,
    _wan_i2v,
    _wan_i2v_inputs,
    {"unipc": UNIPC},
    GUIDED,
    depth=3,
    sublayers=CROSS,
)
WAN22 = Shape(
    "wan22",
    wan_model,
    pipeline("WanPipeline", transformer_2=lambda: wan_model(seed=7), boundary_ratio=0.5),
    wan_inputs,
    {"flow_euler": FLOW_EULER},
    scales("sequential"),
    depth=3,
    sublayers=CROSS,
)
WAN22_5B = Shape(
    "wan22_5b",
    wan_model,
    pipeline("WanImageToVideoPipeline", vae=_wan_vae, expand_timesteps=True),
    _wan_i2v_inputs,
    {"unipc": UNIPC},
    GUIDED,
    depth=3,
    sublayers=CROSS,
)
WAN_VACE = Shape(
    "wan_vace",
    _wan_vace_model,
    pipeline("WanVACEPipeline", vae=_wan_vae),
    wan_inputs,
    {"unipc": UNIPC},
    GUIDED,
    depth=3,
    lists=("blocks",),
    sublayers=CROSS,
)
# Not among the families of the laws: its samplers are copies that tell no clock but the step.
SKYREELS = Shape(
    "skyreels",
    model("SkyReelsV2Transformer3DModel", **WAN_SIZES, inject_sample_info=True),
    pipeline("SkyReelsV2DiffusionForcingPipeline", vae=_wan_vae),
    lambda seed: {**wan_inputs(seed), "prompt": None, "num_frames": 13, "base_num_frames": 13},
    {"unipc": UNIPC},
    GUIDED,
    depth=3,
    sublayers=CROSS,
)
HUNYUAN = Shape(
    "hunyuan_video",
    _hunyuan_model,
    pipeline("HunyuanVideoPipeline"),
    _hunyuan_inputs,
    {"flow_euler": FLOW_EULER},
    {"off": dict, "sequential": _hunyuan_true_cfg},
    depth=4,
    sublayers=("attn", "mlp", "fused"),
)
HUNYUAN_I2V = Shape(
    "hunyuan_video_i2v",
    _hunyuan_i2v_model,
    pipeline("HunyuanVideoImageToVideoPipeline", vae=hunyuan_vae),
    lambda seed: {**_hunyuan_inputs(seed), "image": image(seed)},
    {"flow_euler": FLOW_EULER},
    {"off": dict},
    depth=4,
    sublayers=("attn", "mlp", "fused"),
)
HUNYUAN15 = Shape(
    "hunyuan_video15",
    _hunyuan15_model,
    _hunyuan15,
    inputs(
        {
            **prompts(5, 12),
            "prompt_embeds_2": (4, 6),
            "negative_prompt_embeds_2": (4, 6),
        },
        16,
        num_frames=5,
        prompt_embeds_mask=MASK,
        negative_prompt_embeds_mask=MASK,
        prompt_embeds_mask_2=MASK[:, 1:],
        negative_prompt_embeds_mask_2=MASK[:, 1:],
    ),
    {"flow_euler": FLOW_EULER},
    {"guider": dict},
    depth=3,
)
LTX = Shape(
    "ltx",
    _ltx_model,
    pipeline("LTXPipeline"),
    inputs(prompts(5, 12), **masks(MASK), num_frames=9),
    {"flow_euler": SHIFTED},
    scales("batched"),
    depth=3,
    sublayers=CROSS,
)
LTX_I2V = Shape(
    "ltx_i2v",
    _ltx_model,
    pipeline("LTXImageToVideoPipeline"),
    # Packed latents whose first frame is the image; the pipeline gives that frame's tokens the timestep 0.
    inputs({**prompts(5, 12), "latents": (2 * 2 * 2, 4)}, **masks(MASK), num_frames=9),
    {"flow_euler": SHIFTED},
    {"batched": fixed(guidance_scale=3.0)},
    depth=3,
    alone=("batched",),
    sublayers=CROSS,
)
LTX2 = Shape(
    "ltx2",
    ltx2_model,
    _ltx2,
    inputs(prompts(5, 24), **masks(MASK), num_frames=9),
    {"flow_euler": SHIFTED},
    {
        "batched": lambda: _ltx2_guidance(3.0, 0.0, 1.0),
        # Three calls per evaluation: both prompts in one batch, perturbed attention, modalities apart.
        "three": lambda: _ltx2_guidance(3.0, 1.0, 2.0),
    },
    depth=3,
    alone=("batched", "three"),
    sublayers=CROSS,
)
COGVIDEOX = Shape(
    "cogvideox",
    cogvideox_model,
    pipeline("CogVideoXPipeline"),
    inputs(prompts(5, 12), 32, num_frames=5),
    {"ddim": sampler("CogVideoXDDIMScheduler", **COGVIDEOX_NOISE)},
    scales("batched"),
    depth=3,
)
MOCHI = Shape(
    "mochi",
    _mochi_model,
    pipeline("MochiPipeline"),
    inputs(prompts(5, 16), 32, **masks(MASK.bool()), num_frames=7),
    {"rising": sampler("FlowMatchEulerDiscreteScheduler", invert_sigmas=True)},
    scales("batched"),
    depth=3,
)
VIDEO: tuple[Shape, ...] = (
    WAN_I2V,
    WAN22,
    WAN22_5B,
    WAN_VACE,
    HUNYUAN,
    HUNYUAN_I2V,
    HUNYUAN15,
    LTX,
    LTX_I2V,
    LTX2,
    COGVIDEOX,
    MOCHI,
)
