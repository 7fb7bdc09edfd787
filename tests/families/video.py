"""Video and audio-video transformers.

Wan image-to-video (2.1, with an image encoder), Wan 2.2 with two denoisers, Wan 2.2 5B with a timestep per
token, Wan VACE (blocks of hints beside the trunk); SkyReels (a sampler per frame); HunyuanVideo (a refiner
beside the trunk), from an image too (its tokens stay clean), HunyuanVideo 1.5 (guiders); LTX, from text and
from an image (a timestep per token), LTX2 (video and audio, a copied sampler); CogVideoX; Mochi (rising
timesteps).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.pipelines import FLOW_EULER, Call, Shape, _embeds, _ready, _sampler, generator, wan_model

# The models ---------------------------------------------------------------------------------------


def _wan_like(seed: int, **over: Any) -> nn.Module:
    from diffusers import WanTransformer3DModel

    torch.manual_seed(seed)
    config: Call = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 12,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 3,
        "rope_max_seq_len": 32,
    }
    return _ready(WanTransformer3DModel(**{**config, **over}), seed)


def wan_i2v_model(seed: int = 0) -> nn.Module:
    # Latents, the encoded image and its mask come in one tensor.
    return _wan_like(seed, in_channels=4 + 4 + 4, image_dim=8, added_kv_proj_dim=24)


def wan_vace_model(seed: int = 0) -> nn.Module:
    from diffusers import WanVACETransformer3DModel

    torch.manual_seed(seed)
    model = WanVACETransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=12,
        freq_dim=16,
        ffn_dim=32,
        num_layers=3,
        rope_max_seq_len=32,
        vace_layers=[0, 2],
        # The encoded video, kept and changed, and eight by eight pixels of its mask.
        vace_in_channels=4 + 4 + 64,
    )
    return _ready(model, seed)


def skyreels_model(seed: int = 0) -> nn.Module:
    from diffusers import SkyReelsV2Transformer3DModel

    torch.manual_seed(seed)
    model = SkyReelsV2Transformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=12,
        freq_dim=16,
        ffn_dim=32,
        num_layers=3,
        rope_max_seq_len=32,
        inject_sample_info=True,
    )
    return _ready(model, seed)


def hunyuan_model(seed: int = 0, **over: Any) -> nn.Module:
    from diffusers import HunyuanVideoTransformer3DModel

    torch.manual_seed(seed)
    model = HunyuanVideoTransformer3DModel(
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
        **over,
    )
    return _ready(model, seed)


def hunyuan_i2v_model(seed: int = 0) -> nn.Module:
    return hunyuan_model(seed, image_condition_type="token_replace")


def hunyuan15_model(seed: int = 0) -> nn.Module:
    from diffusers import HunyuanVideo15Transformer3DModel

    torch.manual_seed(seed)
    model = HunyuanVideo15Transformer3DModel(
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
    return _ready(model, seed)


def ltx_model(seed: int = 0) -> nn.Module:
    from diffusers import LTXVideoTransformer3DModel

    torch.manual_seed(seed)
    model = LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=3,
        caption_channels=12,
    )
    return _ready(model, seed)


def ltx2_model(seed: int = 0, **over: Any) -> nn.Module:
    from diffusers import LTX2VideoTransformer3DModel

    torch.manual_seed(seed)
    config: Call = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 16,
        "audio_in_channels": 4,
        "audio_out_channels": 4,
        "audio_num_attention_heads": 2,
        "audio_attention_head_dim": 4,
        "audio_cross_attention_dim": 8,
        "num_layers": 3,
        "caption_channels": 12,
        "rope_double_precision": False,
        "rope_type": "split",
        "perturbed_attn": True,
    }
    return _ready(LTX2VideoTransformer3DModel(**{**config, **over}), seed)


def cogvideox_model(seed: int = 0, text: int = 5) -> nn.Module:
    from diffusers import CogVideoXTransformer3DModel

    torch.manual_seed(seed)
    model = CogVideoXTransformer3DModel(
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
        max_text_seq_length=text,
        use_rotary_positional_embeddings=True,
    )
    return _ready(model, seed)


def mochi_model(seed: int = 0) -> nn.Module:
    from diffusers import MochiTransformer3DModel

    torch.manual_seed(seed)
    model = MochiTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=3,
        pooled_projection_dim=12,
        in_channels=4,
        text_embed_dim=16,
        time_embed_dim=8,
        max_sequence_length=5,
    )
    return _ready(model, seed)


# The other parts ----------------------------------------------------------------------------------


def _wan_vae() -> nn.Module:
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=3,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return vae.eval()


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


def _hunyuan_vae() -> nn.Module:
    from diffusers import AutoencoderKLHunyuanVideo

    torch.manual_seed(0)
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=4
    )
    return vae.eval()


def _hunyuan15_vae() -> nn.Module:
    from diffusers import AutoencoderKLHunyuanVideo15

    torch.manual_seed(0)
    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    return vae.eval()


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


def _wan_i2v(model: nn.Module, sampler: Any) -> Any:
    from diffusers import WanImageToVideoPipeline

    processor, encoder = _clip()
    return WanImageToVideoPipeline(None, None, _wan_vae(), sampler, processor, encoder, model)


def _wan_vace(model: nn.Module, sampler: Any) -> Any:
    from diffusers import WanVACEPipeline

    return WanVACEPipeline(None, None, _wan_vae(), sampler, model)


def _skyreels(model: nn.Module, sampler: Any) -> Any:
    from diffusers import SkyReelsV2DiffusionForcingPipeline

    return SkyReelsV2DiffusionForcingPipeline(None, None, model, _wan_vae(), sampler)


def _wan22(model: nn.Module, sampler: Any) -> Any:
    from diffusers import WanPipeline

    second = wan_model(seed=7)
    return WanPipeline(None, None, None, sampler, model, transformer_2=second, boundary_ratio=0.5)


def _wan22_5b(model: nn.Module, sampler: Any) -> Any:
    from diffusers import WanImageToVideoPipeline

    return WanImageToVideoPipeline(None, None, _wan_vae(), sampler, transformer=model, expand_timesteps=True)


def _hunyuan(model: nn.Module, sampler: Any) -> Any:
    from diffusers import HunyuanVideoPipeline

    return HunyuanVideoPipeline(None, None, model, None, sampler, None, None)


def _hunyuan_i2v(model: nn.Module, sampler: Any) -> Any:
    from diffusers import HunyuanVideoImageToVideoPipeline

    return HunyuanVideoImageToVideoPipeline(None, None, model, _hunyuan_vae(), sampler, None, None, None)


def _hunyuan15(model: nn.Module, sampler: Any) -> Any:
    from diffusers import ClassifierFreeGuidance, HunyuanVideo15Pipeline

    guider = ClassifierFreeGuidance(guidance_scale=3.0)
    pipe = HunyuanVideo15Pipeline(None, None, model, _hunyuan15_vae(), sampler, None, None, guider)
    pipe.vision_num_semantic_tokens = 3
    return pipe


def _ltx(model: nn.Module, sampler: Any) -> Any:
    from diffusers import LTXPipeline

    return LTXPipeline(sampler, None, None, None, model)


def _ltx_i2v(model: nn.Module, sampler: Any) -> Any:
    from diffusers import LTXImageToVideoPipeline

    return LTXImageToVideoPipeline(sampler, None, None, None, model)


def _ltx2(model: nn.Module, sampler: Any) -> Any:
    from diffusers import LTX2Pipeline

    video, audio, connectors = _ltx2_parts()
    return LTX2Pipeline(sampler, video, audio, None, None, connectors, model, None)


def _cogvideox(model: nn.Module, sampler: Any) -> Any:
    from diffusers import CogVideoXPipeline

    return CogVideoXPipeline(None, None, None, model, sampler)


def _mochi(model: nn.Module, sampler: Any) -> Any:
    from diffusers import MochiPipeline

    return MochiPipeline(sampler, None, None, None, model)


def _text_inputs(seed: int, channels: int = 12, masked: bool = True) -> Call:
    inputs: Call = {
        "prompt_embeds": _embeds(seed, 5, channels),
        "negative_prompt_embeds": _embeds(seed + 1, 5, channels),
    }
    if masked:
        mask = torch.tensor([[1, 1, 1, 1, 0]])
        inputs |= {"prompt_attention_mask": mask, "negative_prompt_attention_mask": mask}
    return inputs


def _wan_inputs(seed: int) -> Call:
    return {**_text_inputs(seed, masked=False), "height": 32, "width": 32, "num_frames": 5}


def _wan_i2v_inputs(seed: int) -> Call:
    from PIL import Image

    pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=generator(seed + 2))
    return {**_wan_inputs(seed), "image": Image.fromarray(pixels.numpy())}


def _hunyuan_inputs(seed: int) -> Call:
    return {
        "prompt_embeds": _embeds(seed, 5, 12),
        "pooled_prompt_embeds": _embeds(seed + 1, 8),
        "prompt_attention_mask": torch.tensor([[1, 1, 1, 1, 0]]),
        "height": 32,
        "width": 32,
        "num_frames": 5,
    }


def _hunyuan_i2v_inputs(seed: int) -> Call:
    return {**_hunyuan_inputs(seed), "image": _wan_i2v_inputs(seed)["image"]}


def _hunyuan_true_cfg() -> Call:
    return {
        "true_cfg_scale": 3.0,
        "negative_prompt_embeds": _embeds(8, 5, 12),
        "negative_pooled_prompt_embeds": _embeds(9, 8),
        "negative_prompt_attention_mask": torch.tensor([[1, 1, 1, 0, 0]]),
    }


def _hunyuan15_inputs(seed: int) -> Call:
    inputs: Call = {"height": 16, "width": 16, "num_frames": 5}
    for place, prefix in enumerate(("", "negative_")):
        inputs |= {
            f"{prefix}prompt_embeds": _embeds(seed + place, 5, 12),
            f"{prefix}prompt_embeds_mask": torch.tensor([[1, 1, 1, 1, 0]]),
            f"{prefix}prompt_embeds_2": _embeds(seed + 2 + place, 4, 6),
            f"{prefix}prompt_embeds_mask_2": torch.tensor([[1, 1, 1, 0]]),
        }
    return inputs


def _ltx_inputs(seed: int) -> Call:
    return {**_text_inputs(seed), "height": 64, "width": 64, "num_frames": 9}


def _ltx_i2v_inputs(seed: int) -> Call:
    # Packed latents whose first frame is the image; the pipeline gives that frame's tokens the timestep 0.
    return {**_ltx_inputs(seed), "latents": _embeds(seed + 2, 2 * 2 * 2, 4)}


def _ltx2_inputs(seed: int) -> Call:
    return {**_text_inputs(seed, 24), "height": 64, "width": 64, "num_frames": 9}


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


def _cogvideox_inputs(seed: int) -> Call:
    return {**_text_inputs(seed, masked=False), "height": 32, "width": 32, "num_frames": 5}


def _mochi_inputs(seed: int) -> Call:
    inputs = _text_inputs(seed, 16)
    masks = {name: value.bool() for name, value in inputs.items() if name.endswith("mask")}
    return {**inputs, **masks, "height": 32, "width": 32, "num_frames": 7}


# The families -------------------------------------------------------------------------------------

_SEQUENTIAL = {
    "sequential": lambda: {"guidance_scale": 3.0},
    "off": lambda: {"guidance_scale": 1.0},
}
_GUIDED = {"sequential": lambda: {"guidance_scale": 3.0}}
_BATCHED = {
    "batched": lambda: {"guidance_scale": 3.0},
    "off": lambda: {"guidance_scale": 1.0},
}
_UNIPC = _sampler(
    "UniPCMultistepScheduler", prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
)
_SHIFTED = _sampler(
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
_WITH_CROSS = ("attn", "cross_attn", "mlp")

WAN_I2V = Shape(
    "wan_i2v",
    wan_i2v_model,
    _wan_i2v,
    _wan_i2v_inputs,
    {"unipc": _UNIPC},
    _GUIDED,
    depth=3,
    sublayers=_WITH_CROSS,
)
WAN22 = Shape(
    "wan22",
    wan_model,
    _wan22,
    _wan_inputs,
    {"flow_euler": FLOW_EULER},
    _SEQUENTIAL,
    depth=3,
    sublayers=_WITH_CROSS,
)
WAN22_5B = Shape(
    "wan22_5b",
    _wan_like,
    _wan22_5b,
    _wan_i2v_inputs,
    {"unipc": _UNIPC},
    _GUIDED,
    depth=3,
    sublayers=_WITH_CROSS,
)
WAN_VACE = Shape(
    "wan_vace",
    wan_vace_model,
    _wan_vace,
    _wan_inputs,
    {"unipc": _UNIPC},
    _GUIDED,
    depth=3,
    lists=("blocks",),
    sublayers=_WITH_CROSS,
)
# Not among the families of the laws: its samplers are copies that tell no clock but the step.
SKYREELS = Shape(
    "skyreels",
    skyreels_model,
    _skyreels,
    lambda seed: {**_wan_inputs(seed), "prompt": None, "num_frames": 13, "base_num_frames": 13},
    {"unipc": _UNIPC},
    _GUIDED,
    depth=3,
    sublayers=_WITH_CROSS,
)
HUNYUAN = Shape(
    "hunyuan_video",
    hunyuan_model,
    _hunyuan,
    _hunyuan_inputs,
    {"flow_euler": FLOW_EULER},
    {"off": dict, "sequential": _hunyuan_true_cfg},
    depth=4,
    sublayers=("attn", "mlp", "fused"),
)
HUNYUAN_I2V = Shape(
    "hunyuan_video_i2v",
    hunyuan_i2v_model,
    _hunyuan_i2v,
    _hunyuan_i2v_inputs,
    {"flow_euler": FLOW_EULER},
    {"off": dict},
    depth=4,
    sublayers=("attn", "mlp", "fused"),
)
HUNYUAN15 = Shape(
    "hunyuan_video15",
    hunyuan15_model,
    _hunyuan15,
    _hunyuan15_inputs,
    {"flow_euler": FLOW_EULER},
    {"guider": dict},
    depth=3,
)
LTX = Shape(
    "ltx",
    ltx_model,
    _ltx,
    _ltx_inputs,
    {"flow_euler": _SHIFTED},
    _BATCHED,
    depth=3,
    sublayers=_WITH_CROSS,
)
LTX_I2V = Shape(
    "ltx_i2v",
    ltx_model,
    _ltx_i2v,
    _ltx_i2v_inputs,
    {"flow_euler": _SHIFTED},
    {"batched": lambda: {"guidance_scale": 3.0}},
    depth=3,
    alone=("batched",),
    sublayers=_WITH_CROSS,
)
LTX2 = Shape(
    "ltx2",
    ltx2_model,
    _ltx2,
    _ltx2_inputs,
    {"flow_euler": _SHIFTED},
    {
        "batched": lambda: _ltx2_guidance(3.0, 0.0, 1.0),
        # Three calls per evaluation: both prompts in one batch, perturbed attention, modalities apart.
        "three": lambda: _ltx2_guidance(3.0, 1.0, 2.0),
    },
    depth=3,
    alone=("batched", "three"),
    sublayers=_WITH_CROSS,
)
COGVIDEOX = Shape(
    "cogvideox",
    cogvideox_model,
    _cogvideox,
    _cogvideox_inputs,
    {"ddim": _sampler("CogVideoXDDIMScheduler", **COGVIDEOX_NOISE)},
    _BATCHED,
    depth=3,
)
MOCHI = Shape(
    "mochi",
    mochi_model,
    _mochi,
    _mochi_inputs,
    {"rising": _sampler("FlowMatchEulerDiscreteScheduler", invert_sigmas=True)},
    _BATCHED,
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
