"""Entries: ControlNets, T2I adapters and perturbed attention around Stable Diffusion's UNets."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.builders import generator, model
from tests.families.unets import sdxl_model
from tests.pipelines import NOISE_SAMPLERS, sd_model
from tests.zoo.entry import Entry
from tests.zoo.unets_parts import SIZED, TEXTS, TEXTS_XL, latent, picture, unet, vae

DDIM, EULER, DPM = NOISE_SAMPLERS["ddim"], NOISE_SAMPLERS["euler"], NOISE_SAMPLERS["dpm"]


def opened(control: Any) -> None:
    """Open what is closed when fresh: the layers that hand a ControlNet's outputs on."""
    for i, layer in enumerate((*control.controlnet_down_blocks, control.controlnet_mid_block)):
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator(i)) * 0.5)


SHARED = {
    "in_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "conditioning_channels": 3,
    # Halves the control picture, as the autoencoder here does.
    "conditioning_embedding_out_channels": (8, 8),
}
CONFIG_XL = {
    **SHARED,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 8 + 6 * 4,
}
controlnet = model(
    "ControlNetModel",
    opened,
    **SHARED,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    attention_head_dim=4,
)
controlnet_xl = model("ControlNetModel", opened, **CONFIG_XL)
union = model(
    "ControlNetUnionModel",
    opened,
    **CONFIG_XL,
    num_control_type=2,
    num_trans_channel=8,
    num_trans_head=2,
    num_trans_layer=1,
    num_proj_channel=8,
)


def deep(base: Any) -> Any:
    """What makes the UNet with two layers for each block, which is all that ControlNet-XS knows."""
    return lambda: base(layers_per_block=2)


def xs(base: Any) -> Any:
    """What makes the control part of a ControlNet-XS for this UNet."""

    def make() -> Any:
        from diffusers import ControlNetXSAdapter

        torch.manual_seed(1)
        control: Any = ControlNetXSAdapter.from_unet(
            base(layers_per_block=2),
            size_ratio=0.5,
            conditioning_embedding_out_channels=(8, 8),
            conditioning_channels=3,
            learn_time_embedding=True,
            num_attention_heads=2,
        )
        for module in control.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.any():
                nn.init.normal_(module.weight, std=0.5)
        return control.requires_grad_(False).eval()

    return make


adapter = model(
    "T2IAdapter", channels=[8, 16, 16, 16], num_res_blocks=1, downscale_factor=8, adapter_type="full_adapter"
)
adapter_xl = model(
    "T2IAdapter",
    channels=[8, 16, 16, 16],
    num_res_blocks=1,
    downscale_factor=16,
    adapter_type="full_adapter_xl",
)

SD = {"unet": sd_model, "scheduler": DDIM, "vae": vae}
XL = {"unet": sdxl_model, "scheduler": EULER, "vae": vae, "add_watermarker": False}
CONTROLLED = {**SD, "controlnet": controlnet}
CONTROLLED_XL = {**XL, "controlnet": controlnet_xl}
UNION = {**XL, "controlnet": union}
CONTROL = {"control_image": picture(seed=8)}
PICTURE = {"image": picture(), "strength": 0.8, "num_inference_steps": 8}
MASKED = {"image": picture(), "mask_image": picture(mode="L"), **SIZED}
MODE = {"control_image": lambda: [picture(seed=8)()], "control_mode": lambda: [0]}
PAG = {"pag_scale": 2.0, "pag_adaptive_scale": 0.0}

ENTRIES: tuple[Entry, ...] = (
    unet(
        "StableDiffusionControlNetPipeline",
        CONTROLLED,
        latent(**TEXTS, image=picture(seed=8), **SIZED),
        fast=True,
    ),
    unet("StableDiffusionControlNetImg2ImgPipeline", CONTROLLED, latent(**TEXTS, **PICTURE, **CONTROL)),
    unet("StableDiffusionControlNetInpaintPipeline", CONTROLLED, latent(**TEXTS, **MASKED, **CONTROL)),
    unet(
        "StableDiffusionXLControlNetPipeline",
        CONTROLLED_XL,
        latent(**TEXTS_XL, image=picture(seed=8), **SIZED, control_guidance_end=0.6),
    ),
    unet(
        "StableDiffusionXLControlNetImg2ImgPipeline", CONTROLLED_XL, latent(**TEXTS_XL, **PICTURE, **CONTROL)
    ),
    unet(
        "StableDiffusionXLControlNetInpaintPipeline", CONTROLLED_XL, latent(**TEXTS_XL, **MASKED, **CONTROL)
    ),
    unet("StableDiffusionXLControlNetUnionPipeline", UNION, latent(**TEXTS_XL, **MODE, **SIZED)),
    unet("StableDiffusionXLControlNetUnionImg2ImgPipeline", UNION, latent(**TEXTS_XL, **PICTURE, **MODE)),
    unet("StableDiffusionXLControlNetUnionInpaintPipeline", UNION, latent(**TEXTS_XL, **MASKED, **MODE)),
    unet(
        "StableDiffusionControlNetXSPipeline",
        {**SD, "unet": deep(sd_model), "controlnet": xs(sd_model)},
        latent(**TEXTS, image=picture(seed=8), **SIZED),
        fast=True,
    ),
    unet(
        "StableDiffusionXLControlNetXSPipeline",
        {**XL, "unet": deep(sdxl_model), "controlnet": xs(sdxl_model)},
        latent(**TEXTS_XL, image=picture(seed=8), **SIZED),
    ),
    unet(
        "StableDiffusionAdapterPipeline",
        {"unet": sd_model, "scheduler": DDIM, "adapter": adapter},
        latent(**TEXTS, image=picture(64), height=64, width=64),
    ),
    unet(
        "StableDiffusionXLAdapterPipeline",
        {"unet": sdxl_model, "scheduler": EULER, "adapter": adapter_xl},
        latent(**TEXTS_XL, image=picture(64), height=64, width=64, adapter_conditioning_factor=0.5),
    ),
    unet("StableDiffusionPAGPipeline", SD, latent(**TEXTS, **PAG, **SIZED), fast=True),
    unet("StableDiffusionPAGImg2ImgPipeline", SD, latent(**TEXTS, **PAG, **PICTURE)),
    unet("StableDiffusionPAGInpaintPipeline", SD, latent(**TEXTS, **PAG, **MASKED)),
    unet(
        "StableDiffusionControlNetPAGPipeline",
        CONTROLLED,
        latent(**TEXTS, **PAG, **SIZED, image=picture(seed=8)),
    ),
    unet(
        "StableDiffusionControlNetPAGInpaintPipeline", CONTROLLED, latent(**TEXTS, **PAG, **MASKED, **CONTROL)
    ),
    unet(
        "StableDiffusionXLPAGPipeline",
        {**XL, "scheduler": DPM},
        latent(**TEXTS_XL, **SIZED, pag_scale=2.0, pag_adaptive_scale=0.5),
    ),
    unet("StableDiffusionXLPAGImg2ImgPipeline", XL, latent(**TEXTS_XL, **PAG, **PICTURE)),
    unet("StableDiffusionXLPAGInpaintPipeline", XL, latent(**TEXTS_XL, **PAG, **MASKED)),
    unet(
        "StableDiffusionXLControlNetPAGPipeline",
        CONTROLLED_XL,
        latent(**TEXTS_XL, **PAG, **SIZED, image=picture(seed=8)),
    ),
    unet(
        "StableDiffusionXLControlNetPAGImg2ImgPipeline",
        CONTROLLED_XL,
        latent(**TEXTS_XL, **PAG, **PICTURE, **CONTROL),
    ),
)
