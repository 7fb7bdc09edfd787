"""Entries: PixArt, Sana, Lumina, HunyuanDiT, DiT."""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.builders import Call, model, noise_image, sampler
from tests.families.single import DIT, HUNYUAN_DIT, LUMINA, LUMINA2, PIXART_SIGMA, SANA
from tests.pipelines import PIXART
from tests.zoo.entry import Entry
from tests.zoo.images_parts import entry, kl_vae, opened

DPM = PIXART.samplers["dpm"]
FLOW_DPM = SANA.samplers["dpm_flow"]
HUNYUAN: Call = {"requires_safety_checker": False}
# It makes a picture four times smaller.
DC_VAE = model(
    "AutoencoderDC",
    latent_channels=4,
    attention_head_dim=2,
    encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
    decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
    encoder_block_out_channels=(8, 8, 8),
    decoder_block_out_channels=(8, 8, 8),
    encoder_layers_per_block=(1, 1, 1),
    decoder_layers_per_block=(1, 1, 1),
    encoder_qkv_multiscales=((), (), (5,)),
    decoder_qkv_multiscales=((), (), (5,)),
    downsample_block_type="conv",
    upsample_block_type="interpolate",
)


def guided(shape: Any, scale: float = 3.0, **more: Any) -> Call:
    """Arguments of a call with guidance."""
    return {**shape.inputs(1), "guidance_scale": scale, **more}


def _sana_controlnet() -> nn.Module:
    made = model(
        "SanaControlNetModel",
        opened,
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=12,
        mlp_ratio=2.0,
        sample_size=8,
    )
    return made(1)


def _sprint(**more: Any) -> Call:
    call = guided(SANA, height=32, width=32, max_timesteps=1.57080, intermediate_timesteps=None, **more)
    return {key: value for key, value in call.items() if not key.startswith("negative")}


def _sprint_model() -> nn.Module:
    return SANA.model(0, guidance_embeds=True, guidance_embeds_scale=0.1)


def _hunyuan_controlnet() -> nn.Module:
    made = model(
        "HunyuanDiT2DControlNetModel",
        opened,
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        patch_size=2,
        sample_size=8,
        hidden_size=16,
        transformer_num_layers=4,
        mlp_ratio=2.0,
        cross_attention_dim=12,
        cross_attention_dim_t5=16,
        pooled_projection_dim=8,
        text_len=5,
        text_len_t5=6,
    )
    return made(1)


ENTRIES: tuple[Entry, ...] = (
    entry("PixArtAlphaPipeline", lambda: PIXART.model(0), lambda: guided(PIXART), sampler=DPM),
    entry("PixArtSigmaPipeline", lambda: PIXART_SIGMA.model(0), lambda: guided(PIXART_SIGMA), sampler=DPM),
    entry(
        "PixArtSigmaPAGPipeline",
        lambda: PIXART_SIGMA.model(0),
        lambda: guided(PIXART_SIGMA, pag_scale=2.0),
        sampler=DPM,
    ),
    entry("SanaPipeline", lambda: SANA.model(0), lambda: guided(SANA), sampler=FLOW_DPM),
    entry(
        "SanaPAGPipeline",
        lambda: SANA.model(0),
        lambda: guided(SANA, pag_scale=2.0, height=64, width=64),
        sampler=FLOW_DPM,
    ),
    entry(
        "SanaControlNetPipeline",
        lambda: SANA.model(0),
        lambda: guided(SANA, control_image=noise_image(), height=32, width=32),
        sampler=FLOW_DPM,
        vae=DC_VAE,
        controlnet=_sana_controlnet,
    ),
    entry("SanaSprintPipeline", _sprint_model, _sprint, sampler=sampler("SCMScheduler"), vae=DC_VAE),
    entry(
        "SanaSprintImg2ImgPipeline",
        _sprint_model,
        lambda: _sprint(image=noise_image(), strength=0.75, num_inference_steps=8),
        sampler=sampler("SCMScheduler"),
        vae=DC_VAE,
    ),
    entry("LuminaPipeline", lambda: LUMINA.model(0), lambda: guided(LUMINA)),
    entry("Lumina2Pipeline", lambda: LUMINA2.model(0), lambda: guided(LUMINA2, cfg_trunc_ratio=0.6)),
    entry(
        "HunyuanDiTPipeline",
        lambda: HUNYUAN_DIT.model(0),
        lambda: guided(HUNYUAN_DIT),
        sampler=PIXART.samplers["ddim"],
        **HUNYUAN,
    ),
    entry(
        "HunyuanDiTPAGPipeline",
        lambda: HUNYUAN_DIT.model(0),
        lambda: guided(HUNYUAN_DIT, pag_scale=2.0),
        sampler=PIXART.samplers["ddim"],
        **HUNYUAN,
    ),
    entry(
        "HunyuanDiTControlNetPipeline",
        lambda: HUNYUAN_DIT.model(0),
        lambda: guided(HUNYUAN_DIT, control_image=noise_image()),
        sampler=PIXART.samplers["ddim"],
        vae=kl_vae(4),
        controlnet=_hunyuan_controlnet,
        **HUNYUAN,
    ),
    entry(
        "DiTPipeline",
        lambda: DIT.model(0),
        lambda: guided(DIT, 4.0, output_type="np"),
        sampler=PIXART.samplers["ddim"],
        vae=model("AutoencoderKL", block_out_channels=(4,), norm_num_groups=2, sample_size=8),
    ),
)
