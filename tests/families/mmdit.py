"""Image transformers with two streams, text and image.

Flux from an image (starts late in the schedule) and with a ControlNet; Flux2, Chroma and AuraFlow, whose
streams are joined in the middle, text first; HiDream, image first, with experts in its blocks; SD3, whose
last block drops the text and which may skip a layer for guidance; QwenImage and CogView4, sequential under
cache contexts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.builders import (
    POOLED,
    Call,
    embeds,
    fixed,
    generator,
    inputs,
    masks,
    model,
    pipeline,
    prompts,
    quiet,
    ready,
    scales,
)
from tests.pipelines import FLOW_EULER, Shape, flux_inputs, flux_model, flux_true_cfg

FLOW = {"flow_euler": FLOW_EULER}


def calm(weight: torch.Tensor) -> None:
    """Let a model of random weights depend on the time less: real ones change little from step to step."""
    weight.data.mul_(0.1)


def picture(seed: int, size: int = 64) -> torch.Tensor:
    """A picture of noise."""
    return torch.rand(1, 3, size, size, generator=generator(seed))


def vae() -> nn.Module:
    """A tiny autoencoder that makes a picture eight times smaller."""
    made: Any = model(
        "AutoencoderKL",
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=16,
        norm_num_groups=1,
        block_out_channels=(4,) * 4,
        layers_per_block=1,
    )()
    made.register_to_config(shift_factor=0.0, scaling_factor=1.0)
    return made


def _img2img_inputs(seed: int) -> Call:
    # Of nine noise levels the last seven are run; their number counts, not that of the steps.
    sigmas = torch.linspace(1, 1 / 9, 9).tolist()
    return {**flux_inputs(seed), "image": picture(seed), "strength": 0.75, "sigmas": sigmas}


def flux_controlnet(flux: nn.Module) -> nn.Module:
    """A ControlNet for a Flux; its projections are not zero, so that it matters."""
    from diffusers import FluxControlNetModel

    torch.manual_seed(1)
    size = {"num_layers": 2, "num_single_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2}
    with quiet():
        control: Any = FluxControlNetModel.from_transformer(flux, **size)
    for name, parameter in control.named_parameters():
        if name.startswith(("controlnet_blocks", "controlnet_single_blocks")):
            nn.init.normal_(parameter, std=0.3)
    return ready(control, 1)


def _flux_control(flux: nn.Module, sampler: Any) -> Any:
    made = pipeline("FluxControlNetPipeline", vae=vae, controlnet=lambda: flux_controlnet(flux))
    return made(flux, sampler)


def skipping(*layers: int) -> Call:
    """Skip-layer guidance: from the second evaluation to the fifth another branch runs without these."""
    span = {"skip_layer_guidance_start": 0.01, "skip_layer_guidance_stop": 0.7}
    return {"guidance_scale": 3.0, "skip_guidance_layers": list(layers), **span}


def _hidream(denoiser: nn.Module, sampler: Any) -> Any:
    pipe = pipeline("HiDreamImagePipeline")(denoiser, sampler)
    # It scales every picture to this area.
    pipe.default_sample_size = 8
    return pipe


def _hidream_inputs(seed: int) -> Call:
    return {
        "prompt_embeds_t5": embeds(seed, 5, 12),
        "negative_prompt_embeds_t5": embeds(seed + 1, 5, 12),
        "prompt_embeds_llama3": embeds(seed + 2, 3, 4, 10).transpose(0, 1),
        "negative_prompt_embeds_llama3": embeds(seed + 3, 3, 4, 10).transpose(0, 1),
        "pooled_prompt_embeds": embeds(seed + 4, 8),
        "negative_pooled_prompt_embeds": embeds(seed + 5, 8),
        "height": 64,
        "width": 64,
    }


def _qwen_true_cfg() -> Call:
    # Shorter than the prompt, as real ones are.
    mask = torch.ones(1, 4, dtype=torch.int64)
    return {
        "true_cfg_scale": 3.0,
        "negative_prompt_embeds": embeds(8, 4, 12),
        "negative_prompt_embeds_mask": mask,
    }


FLUX_IMG2IMG = Shape(
    "flux_img2img",
    flux_model,
    pipeline("FluxImg2ImgPipeline", vae=vae),
    _img2img_inputs,
    FLOW,
    {"off": dict, "sequential": flux_true_cfg},
    depth=4,
)
FLUX_CONTROLNET = Shape(
    "flux_controlnet",
    flux_model,
    _flux_control,
    lambda seed: {**flux_inputs(seed), "control_image": picture(seed)},
    FLOW,
    {"off": dict},
    depth=4,
)
FLUX2 = Shape(
    "flux2",
    model(
        "Flux2Transformer2DModel",
        lambda flux2: calm(flux2.time_guidance_embed.timestep_embedder.linear_1.weight),
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        timestep_guidance_channels=16,
        axes_dims_rope=(2, 2, 2, 2),
    ),
    pipeline("Flux2Pipeline"),
    inputs({"prompt_embeds": (5, 12)}),
    FLOW,
    {"off": dict},
    depth=4,
)
SD3 = Shape(
    "sd3",
    # The first block has the second attention of SD3.5.
    model(
        "SD3Transformer2DModel",
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=7,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=8,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    ),
    pipeline("StableDiffusion3Pipeline"),
    inputs({**prompts(5, 12), **POOLED}),
    FLOW,
    {**scales("batched"), "skip_layer": lambda: skipping(3)},
    depth=7,
)
AURAFLOW = Shape(
    "auraflow",
    model(
        "AuraFlowTransformer2DModel",
        lambda auraflow: calm(auraflow.time_step_proj.linear_1.weight),
        sample_size=8,
        in_channels=4,
        num_mmdit_layers=2,
        num_single_dit_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        out_channels=4,
        pos_embed_max_size=64,
    ),
    pipeline("AuraFlowPipeline"),
    inputs(prompts(5, 12), **masks(torch.ones(1, 5))),
    FLOW,
    scales("batched"),
    depth=4,
    lists=("joint_transformer_blocks", "single_transformer_blocks"),
)
CHROMA = Shape(
    "chroma",
    # The approximator has as many layers, which are not of the trunk.
    model(
        "ChromaTransformer2DModel",
        lambda chroma: calm(chroma.distilled_guidance_layer.in_proj.weight[:, :2]),
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        axes_dims_rope=(2, 2, 4),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=6,
    ),
    pipeline("ChromaPipeline"),
    # Twelve tokens of text: the modulation of a double block has that shape too.
    inputs(prompts(12, 12), **masks(torch.ones(1, 12))),
    FLOW,
    scales("sequential"),
    depth=4,
)
HIDREAM = Shape(
    "hidream",
    # Four experts in each block, every block with text of its own.
    model(
        "HiDreamImageTransformer2DModel",
        patch_size=2,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=[12, 10],
        text_emb_dim=8,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(8, 8),
        llama_layers=[0, 1, 1, 2],
    ),
    _hidream,
    _hidream_inputs,
    FLOW,
    scales("batched"),
    depth=4,
    alone=("batched",),
    lists=("double_stream_blocks", "single_stream_blocks"),
)
QWEN = Shape(
    "qwenimage",
    model(
        "QwenImageTransformer2DModel",
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        axes_dims_rope=(4, 2, 2),
    ),
    pipeline("QwenImagePipeline"),
    inputs({"prompt_embeds": (5, 12)}, prompt_embeds_mask=torch.ones(1, 5, dtype=torch.int64)),
    FLOW,
    {"sequential": _qwen_true_cfg, "off": fixed(true_cfg_scale=1.0)},
    depth=3,
    alone=("sequential",),
)
COGVIEW4 = Shape(
    "cogview4",
    model(
        "CogView4Transformer2DModel",
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=12,
        time_embed_dim=8,
        condition_dim=4,
        pos_embed_max_size=8,
        sample_size=8,
        rope_axes_dim=(8, 8),
    ),
    pipeline("CogView4Pipeline"),
    # As many tokens of text as of image.
    inputs(prompts(16, 12)),
    FLOW,
    scales("sequential"),
    depth=3,
)

MMDIT: tuple[Shape, ...] = (
    FLUX_IMG2IMG,
    FLUX_CONTROLNET,
    FLUX2,
    SD3,
    AURAFLOW,
    CHROMA,
    HIDREAM,
    QWEN,
    COGVIEW4,
)
