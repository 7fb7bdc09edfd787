"""Single-stream and cross-attention transformers, for images and audio.

DiT: class labels; block 0 is also read by the model itself; the conditional half comes first. PixArt-Sigma:
cross-attention. Sana: cross-attention, linear attention, convolutions as MLP. Lumina: self- and
cross-attention under one output projection, guidance of three channels, reversed timesteps. Lumina2:
sequential guidance that may stop early, refiners, reversed timesteps. Z-Image: refiners, lists in and out, a
batch that shrinks. HunyuanDiT: long skips between blocks. Stable Audio: a sampler that adds noise.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from tests.pipelines import (
    FLOW_EULER,
    NOISE_SAMPLERS,
    PIXART,
    Call,
    Shape,
    _embeds,
    _ready,
    _sampler,
    pixart_model,
)

# The models ---------------------------------------------------------------------------------------


def dit_model(seed: int = 0) -> nn.Module:
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(seed)
    model = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        sample_size=8,
    )
    return _ready(model, seed)


def sigma_model(seed: int = 0) -> nn.Module:
    return pixart_model(seed, interpolation_scale=2, use_additional_conditions=False)


def sana_model(seed: int = 0) -> nn.Module:
    from diffusers import SanaTransformer2DModel

    torch.manual_seed(seed)
    model = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=3,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=12,
        mlp_ratio=2.0,
        sample_size=8,
    )
    return _ready(model, seed)


def lumina_model(seed: int = 0) -> nn.Module:
    from diffusers import LuminaNextDiT2DModel

    torch.manual_seed(seed)
    model = LuminaNextDiT2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=16,
        num_layers=3,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        norm_eps=1e-5,
        cross_attention_dim=12,
    )
    _ready(model, seed)
    for block in model.layers:
        block.gate.fill_(0.5)  # of the cross-attention; closed when fresh
    return model


def lumina2_model(seed: int = 0) -> nn.Module:
    from diffusers import Lumina2Transformer2DModel

    torch.manual_seed(seed)
    model = Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=24,
        num_layers=3,
        num_refiner_layers=2,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(32, 16, 16),
        cap_feat_dim=12,
    )
    return _ready(model, seed)


def z_image_model(seed: int = 0) -> nn.Module:
    from diffusers import ZImageTransformer2DModel

    torch.manual_seed(seed)
    model = ZImageTransformer2DModel(
        in_channels=4,
        dim=24,
        n_layers=3,
        n_refiner_layers=2,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=12,
        axes_dims=[4, 4, 4],
        axes_lens=[128, 16, 16],
    )
    _ready(model, seed)
    # A random timestep embedding would turn the whole stream at every step.
    model.t_embedder.mlp[-1].weight.mul_(0.2)
    return model


def hunyuan_model(seed: int = 0, layers: int = 4) -> nn.Module:
    from diffusers import HunyuanDiT2DModel

    torch.manual_seed(seed)
    model = HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        patch_size=2,
        sample_size=8,
        hidden_size=16,
        num_layers=layers,
        mlp_ratio=2.0,
        cross_attention_dim=12,
        cross_attention_dim_t5=16,
        pooled_projection_dim=8,
        text_len=5,
        text_len_t5=6,
    )
    return _ready(model, seed)


def stable_audio_model(seed: int = 0) -> nn.Module:
    from diffusers import StableAudioDiTModel

    torch.manual_seed(seed)
    model = StableAudioDiTModel(
        sample_size=16,
        in_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_attention_heads=1,
        out_channels=4,
        cross_attention_dim=12,
        time_proj_dim=16,
        global_states_input_dim=24,
        cross_attention_input_dim=12,
    )
    return _ready(model, seed)


# The pipelines ------------------------------------------------------------------------------------


def _dit(model: nn.Module, sampler: Any) -> Any:
    from diffusers import AutoencoderKL, DiTPipeline

    torch.manual_seed(0)
    # This pipeline always decodes.
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, sample_size=8)
    return DiTPipeline(model, vae.eval(), sampler)


def _sigma(model: nn.Module, sampler: Any) -> Any:
    from diffusers import PixArtSigmaPipeline

    return PixArtSigmaPipeline(None, None, None, model, sampler)


def _sana(model: nn.Module, sampler: Any) -> Any:
    from diffusers import SanaPipeline

    return SanaPipeline(None, None, None, model, sampler)


def _lumina(model: nn.Module, sampler: Any) -> Any:
    from diffusers import LuminaPipeline

    return LuminaPipeline(model, sampler, None, None, None)


def _lumina2(model: nn.Module, sampler: Any) -> Any:
    from diffusers import Lumina2Pipeline

    return Lumina2Pipeline(model, sampler, None, None, None)


def _z_image(model: nn.Module, sampler: Any) -> Any:
    from diffusers import ZImagePipeline

    return ZImagePipeline(sampler, None, None, None, model)


def _hunyuan(model: nn.Module, sampler: Any) -> Any:
    from diffusers import HunyuanDiTPipeline

    return HunyuanDiTPipeline(None, None, None, model, sampler, None, None, requires_safety_checker=False)


def _stable_audio(model: nn.Module, sampler: Any) -> Any:
    from diffusers import AutoencoderOobleck, StableAudioPipeline
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    torch.manual_seed(0)
    with warnings.catch_warnings():
        # diffusers still uses torch's older weight norm.
        warnings.simplefilter("ignore", FutureWarning)
        vae = AutoencoderOobleck(
            encoder_hidden_size=4,
            downsampling_ratios=[2, 2],
            channel_multiples=[1, 2],
            decoder_channels=4,
            decoder_input_channels=4,
            sampling_rate=16,
        )
    projection = StableAudioProjectionModel(12, 12, 0, 10)
    return StableAudioPipeline(vae.eval(), None, projection.eval(), None, model, sampler)


# Their arguments ----------------------------------------------------------------------------------


def _dit_inputs(seed: int) -> Call:
    return {"class_labels": [seed, seed + 1]}


def _sana_inputs(seed: int) -> Call:
    # Its autoencoder compresses 32-fold.
    return {**PIXART.inputs(seed), "height": 256, "width": 256}


def _lumina_inputs(seed: int) -> Call:
    inputs = {k: v for k, v in PIXART.inputs(seed).items() if k != "use_resolution_binning"}
    return {**inputs, "clean_caption": False}


def _lumina2_inputs(seed: int) -> Call:
    return {
        "prompt_embeds": _embeds(seed, 5, 12),
        "prompt_attention_mask": torch.ones(1, 5, dtype=torch.long),
        "negative_prompt_embeds": _embeds(seed + 1, 5, 12),
        "negative_prompt_attention_mask": torch.tensor([[1, 1, 1, 0, 0]]),
        "height": 64,
        "width": 64,
    }


def _z_image_inputs(seed: int) -> Call:
    return {
        "prompt_embeds": [_embeds(seed, 5, 12)[0]],
        "negative_prompt_embeds": [_embeds(seed + 1, 4, 12)[0]],
        "height": 64,
        "width": 64,
    }


def _hunyuan_inputs(seed: int) -> Call:
    return {
        "prompt_embeds": _embeds(seed, 5, 12),
        "negative_prompt_embeds": _embeds(seed + 1, 5, 12),
        "prompt_embeds_2": _embeds(seed + 2, 6, 16),
        "negative_prompt_embeds_2": _embeds(seed + 3, 6, 16),
        "prompt_attention_mask": torch.ones(1, 5),
        "negative_prompt_attention_mask": torch.ones(1, 5),
        "prompt_attention_mask_2": torch.ones(1, 6),
        "negative_prompt_attention_mask_2": torch.ones(1, 6),
        "use_resolution_binning": False,
        "height": 64,
        "width": 64,
    }


def _stable_audio_inputs(seed: int) -> Call:
    return {
        "prompt_embeds": _embeds(seed, 5, 12),
        "negative_prompt_embeds": _embeds(seed + 1, 5, 12),
        "attention_mask": torch.ones(1, 5, dtype=torch.long),
        "negative_attention_mask": torch.ones(1, 5, dtype=torch.long),
    }


DIT = Shape(
    "dit",
    dit_model,
    _dit,
    _dit_inputs,
    {"ddim": NOISE_SAMPLERS["ddim"], "dpm": NOISE_SAMPLERS["dpm"]},
    {
        "batched": lambda: {"guidance_scale": 4.0, "output_type": "pt"},
        "off": lambda: {"guidance_scale": 1.0, "output_type": "pt"},
    },
    depth=3,
)
PIXART_SIGMA = Shape(
    "pixart_sigma",
    sigma_model,
    _sigma,
    PIXART.inputs,
    {"dpm": NOISE_SAMPLERS["dpm"]},
    PIXART.guidance,
    depth=3,
    sublayers=("attn", "cross_attn", "mlp"),
)
SANA = Shape(
    "sana",
    sana_model,
    _sana,
    _sana_inputs,
    {
        "dpm_flow": _sampler(
            "DPMSolverMultistepScheduler",
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=3.0,
        ),
        "flow_euler": FLOW_EULER,
    },
    PIXART.guidance,
    depth=3,
    sublayers=("attn", "cross_attn", "mlp"),
)
LUMINA = Shape(
    "lumina",
    lumina_model,
    _lumina,
    _lumina_inputs,
    {"flow_euler": FLOW_EULER},
    {"batched": lambda: {"guidance_scale": 4.0}, "off": lambda: {"guidance_scale": 1.0}},
    depth=3,
    lists=("layers",),
    sublayers=("attn", "cross_attn", "mlp"),
)
LUMINA2 = Shape(
    "lumina2",
    lumina2_model,
    _lumina2,
    _lumina2_inputs,
    {"flow_euler": FLOW_EULER},
    {
        "sequential": lambda: {"guidance_scale": 4.0, "cfg_normalization": False},
        "off": lambda: {"guidance_scale": 1.0},
        "part": lambda: {"guidance_scale": 4.0, "cfg_normalization": False, "cfg_trunc_ratio": 0.6},
    },
    depth=3,
    lists=("layers",),
)
Z_IMAGE = Shape(
    "z_image",
    z_image_model,
    _z_image,
    _z_image_inputs,
    {"flow_euler": FLOW_EULER},
    {
        "batched": lambda: {"guidance_scale": 4.0},
        "off": lambda: {"guidance_scale": 0.0},
        "part": lambda: {"guidance_scale": 4.0, "cfg_truncation": 0.6},
    },
    depth=3,
    lists=("layers",),
    alone=("batched", "part"),
)
HUNYUAN_DIT = Shape(
    "hunyuan_dit",
    hunyuan_model,
    _hunyuan,
    _hunyuan_inputs,
    {"ddim": NOISE_SAMPLERS["ddim"], "dpm": NOISE_SAMPLERS["dpm"]},
    {"batched": lambda: {"guidance_scale": 5.0}, "off": lambda: {"guidance_scale": 1.0}},
    depth=4,
    sublayers=("attn", "cross_attn", "mlp"),
)
STABLE_AUDIO = Shape(
    "stable_audio",
    stable_audio_model,
    _stable_audio,
    _stable_audio_inputs,
    # Published are 500 to 0.3: a few steps so far apart, each with fresh noise, have little in common.
    {"cosine_dpm": _sampler("CosineDPMSolverMultistepScheduler", sigma_min=0.1, sigma_max=1.0)},
    {
        # What it returns as "latent" leaves the call before the pipeline says that it is over.
        "batched": lambda: {"guidance_scale": 7.0, "output_type": "pt"},
        "off": lambda: {"guidance_scale": 1.0, "output_type": "pt"},
    },
    depth=3,
    sublayers=("attn", "cross_attn", "mlp"),
)
SINGLE: tuple[Shape, ...] = (DIT, PIXART_SIGMA, SANA, LUMINA, LUMINA2, Z_IMAGE, HUNYUAN_DIT, STABLE_AUDIO)
