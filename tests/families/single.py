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

from tests.builders import Call, embeds, fixed, inputs, masks, model, pipeline, prompts, sampler, scales
from tests.pipelines import FLOW_EULER, NOISE_SAMPLERS, PIXART, Shape, pixart_model

CROSS = ("attn", "cross_attn", "mlp")
# The models ---------------------------------------------------------------------------------------


def _sigma_model(seed: int) -> nn.Module:
    return pixart_model(seed, interpolation_scale=2, use_additional_conditions=False)


def _open(lumina: Any) -> None:
    """Open the gates of the cross-attention, which are closed when fresh."""
    for block in lumina.layers:
        block.gate.fill_(0.5)


hunyuan_model = model(
    "HunyuanDiT2DModel",
    num_attention_heads=2,
    attention_head_dim=8,
    in_channels=4,
    patch_size=2,
    sample_size=8,
    hidden_size=16,
    num_layers=4,
    mlp_ratio=2.0,
    cross_attention_dim=12,
    cross_attention_dim_t5=16,
    pooled_projection_dim=8,
    text_len=5,
    text_len_t5=6,
)

# The other parts ----------------------------------------------------------------------------------


def _stable_audio(denoiser: nn.Module, sampler: Any) -> Any:
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    with warnings.catch_warnings():
        # diffusers still uses torch's older weight norm.
        warnings.simplefilter("ignore", FutureWarning)
        vae = model(
            "AutoencoderOobleck",
            encoder_hidden_size=4,
            downsampling_ratios=[2, 2],
            channel_multiples=[1, 2],
            decoder_channels=4,
            decoder_input_channels=4,
            sampling_rate=16,
        )()
    projection = StableAudioProjectionModel(12, 12, 0, 10)
    made = pipeline("StableAudioPipeline", vae=lambda: vae, projection_model=projection.eval)
    return made(denoiser, sampler)


# Their arguments ----------------------------------------------------------------------------------


def _lumina_inputs(seed: int) -> Call:
    given = {k: v for k, v in PIXART.inputs(seed).items() if k != "use_resolution_binning"}
    return {**given, "clean_caption": False}


def _z_image_inputs(seed: int) -> Call:
    return {
        "prompt_embeds": [embeds(seed, 5, 12)[0]],
        "negative_prompt_embeds": [embeds(seed + 1, 4, 12)[0]],
        "height": 64,
        "width": 64,
    }


DIT = Shape(
    "dit",
    model(
        "DiTTransformer2DModel",
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        sample_size=8,
    ),
    # This pipeline always decodes.
    pipeline(
        "DiTPipeline", vae=model("AutoencoderKL", block_out_channels=(4,), norm_num_groups=2, sample_size=8)
    ),
    lambda seed: {"class_labels": [seed, seed + 1]},
    {"ddim": NOISE_SAMPLERS["ddim"], "dpm": NOISE_SAMPLERS["dpm"]},
    scales("batched", 4.0, output_type="pt"),
    depth=3,
)
PIXART_SIGMA = Shape(
    "pixart_sigma",
    _sigma_model,
    pipeline("PixArtSigmaPipeline"),
    PIXART.inputs,
    {"dpm": NOISE_SAMPLERS["dpm"]},
    PIXART.guidance,
    depth=3,
    sublayers=CROSS,
)
SANA = Shape(
    "sana",
    model(
        "SanaTransformer2DModel",
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
    ),
    pipeline("SanaPipeline"),
    # Its autoencoder compresses 32-fold.
    lambda seed: {**PIXART.inputs(seed), "height": 256, "width": 256},
    {
        "dpm_flow": sampler(
            "DPMSolverMultistepScheduler",
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=3.0,
        ),
        "flow_euler": FLOW_EULER,
    },
    PIXART.guidance,
    depth=3,
    sublayers=CROSS,
)
LUMINA = Shape(
    "lumina",
    model(
        "LuminaNextDiT2DModel",
        _open,
        sample_size=8,
        in_channels=4,
        hidden_size=16,
        num_layers=3,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        norm_eps=1e-5,
        cross_attention_dim=12,
    ),
    pipeline("LuminaPipeline"),
    _lumina_inputs,
    {"flow_euler": FLOW_EULER},
    scales("batched", 4.0),
    depth=3,
    lists=("layers",),
    sublayers=CROSS,
)
LUMINA2 = Shape(
    "lumina2",
    model(
        "Lumina2Transformer2DModel",
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
    ),
    pipeline("Lumina2Pipeline"),
    inputs(
        prompts(5, 12),
        prompt_attention_mask=torch.ones(1, 5, dtype=torch.long),
        negative_prompt_attention_mask=torch.tensor([[1, 1, 1, 0, 0]]),
    ),
    {"flow_euler": FLOW_EULER},
    {
        "sequential": fixed(guidance_scale=4.0, cfg_normalization=False),
        "off": fixed(guidance_scale=1.0),
        "part": fixed(guidance_scale=4.0, cfg_normalization=False, cfg_trunc_ratio=0.6),
    },
    depth=3,
    lists=("layers",),
)
Z_IMAGE = Shape(
    "z_image",
    model(
        "ZImageTransformer2DModel",
        # A random timestep embedding would turn the whole stream at every step.
        lambda made: made.t_embedder.mlp[-1].weight.mul_(0.2),
        in_channels=4,
        dim=24,
        n_layers=3,
        n_refiner_layers=2,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=12,
        axes_dims=[4, 4, 4],
        axes_lens=[128, 16, 16],
    ),
    pipeline("ZImagePipeline"),
    _z_image_inputs,
    {"flow_euler": FLOW_EULER},
    {
        "batched": fixed(guidance_scale=4.0),
        "off": fixed(guidance_scale=0.0),
        "part": fixed(guidance_scale=4.0, cfg_truncation=0.6),
    },
    depth=3,
    lists=("layers",),
    alone=("batched", "part"),
)
HUNYUAN_DIT = Shape(
    "hunyuan_dit",
    hunyuan_model,
    pipeline("HunyuanDiTPipeline", requires_safety_checker=False),
    inputs(
        {**prompts(5, 12), "prompt_embeds_2": (6, 16), "negative_prompt_embeds_2": (6, 16)},
        **masks(torch.ones(1, 5)),
        prompt_attention_mask_2=torch.ones(1, 6),
        negative_prompt_attention_mask_2=torch.ones(1, 6),
        use_resolution_binning=False,
    ),
    {"ddim": NOISE_SAMPLERS["ddim"], "dpm": NOISE_SAMPLERS["dpm"]},
    scales("batched", 5.0),
    depth=4,
    sublayers=CROSS,
)
STABLE_AUDIO = Shape(
    "stable_audio",
    model(
        "StableAudioDiTModel",
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
    ),
    _stable_audio,
    inputs(
        prompts(5, 12),
        None,
        attention_mask=torch.ones(1, 5, dtype=torch.long),
        negative_attention_mask=torch.ones(1, 5, dtype=torch.long),
    ),
    # Published are 500 to 0.3: a few steps so far apart, each with fresh noise, have little in common.
    {"cosine_dpm": sampler("CosineDPMSolverMultistepScheduler", sigma_min=0.1, sigma_max=1.0)},
    # What it returns as "latent" leaves the call before the pipeline says that it is over.
    scales("batched", 7.0, output_type="pt"),
    depth=3,
    sublayers=CROSS,
)
SINGLE: tuple[Shape, ...] = (DIT, PIXART_SIGMA, SANA, LUMINA, LUMINA2, Z_IMAGE, HUNYUAN_DIT, STABLE_AUDIO)
