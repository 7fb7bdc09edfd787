"""Entries: QwenImage and Z-Image, with what edits, paints over, controls."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.builders import Call, embeds, model, noise_image
from tests.families.mmdit import QWEN
from tests.families.single import Z_IMAGE
from tests.zoo.entry import Entry
from tests.zoo.images_parts import (
    MORE_STEPS,
    QWEN_VAE,
    coarse,
    entry,
    half_mask,
    kl_vae,
    llama,
    opened,
    words,
)

IMG2IMG: Call = {"strength": 0.75, "num_inference_steps": MORE_STEPS}
# These pipelines scale every picture to a megapixel: 16 x 16 latents after a coarser autoencoder.
MEGAPIXEL: Call = {"vae": QWEN_VAE, "change": coarse(8)}


def _qwen(**over: Any) -> nn.Module:
    return QWEN.model(0, **over) if over else QWEN.model(0)


def guided(**more: Any) -> Call:
    """A call with guidance under cache contexts; the negative prompt is shorter."""
    return {**QWEN.inputs(1), **QWEN.guidance["sequential"](), **more}


def _qwen_controlnet(extra: int = 0) -> Any:
    made = model(
        "QwenImageControlNetModel",
        opened,
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        axes_dims_rope=(4, 2, 2),
        extra_condition_channels=extra,
    )
    return lambda: made(1)


def _qwen21() -> nn.Module:
    return model(
        "QwenImage21Transformer2DModel",
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        context_in_dim=12,
        mlp_ratio=2,
        axes_dims_rope=(4, 2, 2),
    )(0)


class _Processor:
    """What the pipeline asks its processor for when it is made."""

    def __init__(self) -> None:
        self.tokenizer = self

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> list[list[int]]:
        return [[1, 2]]

    def encode(self, text: str) -> list[int]:
        return [5]


def _layers() -> Call:
    names = ("prompt", "negative_prompt")
    texts = dict(zip(names, "ab", strict=True))
    # This pipeline always decodes.
    return {"image": noise_image(), "layers": 2, "true_cfg_scale": 3.0, "output_type": "np", **texts}


def _write(pipe: Any) -> None:
    """Prompts as embeddings; every picture is scaled to 640 x 640 pixels."""
    coarse(8)(pipe)
    mask = torch.ones(1, 5, dtype=torch.int64)
    pipe.encode_prompt = lambda prompt, **options: (words(prompt, 5, 12), mask)


def _layered() -> nn.Module:
    return _qwen(use_additional_t_cond=True, use_layer3d_rope=True)


def _z_image(**over: Any) -> nn.Module:
    return Z_IMAGE.model(0, **over) if over else Z_IMAGE.model(0)


def z_image(**more: Any) -> Call:
    """A call with guidance in one batch of lists."""
    return {**Z_IMAGE.inputs(1), "guidance_scale": 4.0, **more}


def _z_controlnet(channels: int) -> Any:
    made = model(
        "ZImageControlNetModel",
        opened,
        control_layers_places=[0, 2],
        control_refiner_layers_places=[0, 1],
        control_in_dim=channels,
        add_control_noise_refiner="control_noise_refiner",
        dim=24,
        n_refiner_layers=2,
        n_heads=2,
        n_kv_heads=2,
    )
    return lambda: made(1)


def _omni() -> Call:
    parts = [[embeds(seed + i, 5, 12)[0] for i in range(3)] for seed in (1, 11)]
    return {
        "prompt_embeds": [parts[0]],
        "negative_prompt_embeds": [parts[1]],
        "image": noise_image(),
        "guidance_scale": 4.0,
        "height": 64,
        "width": 64,
    }


class _SiglipProcessor:
    """Four patches of each picture, as the encoder's processor lays them out."""

    def __call__(self, images: list[Any], return_tensors: str = "pt") -> Any:
        from transformers import BatchFeature

        return BatchFeature(
            {
                "pixel_values": embeds(5, 4, 12).repeat(len(images), 1, 1),
                "pixel_attention_mask": torch.ones(len(images), 4, dtype=torch.long),
                "spatial_shapes": torch.tensor([[2, 2]] * len(images)),
            }
        )


def _siglip() -> nn.Module:
    from transformers import Siglip2VisionConfig, Siglip2VisionModel

    torch.manual_seed(4)
    config = Siglip2VisionConfig(
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_patches=4,
        patch_size=2,
        num_channels=3,
    )
    return Siglip2VisionModel(config).eval()


VAE4 = kl_vae(4)

ENTRIES: tuple[Entry, ...] = (
    entry("QwenImagePipeline", _qwen, guided),
    entry("QwenImageImg2ImgPipeline", _qwen, lambda: guided(image=noise_image(), **IMG2IMG), vae=QWEN_VAE),
    entry(
        "QwenImageInpaintPipeline",
        _qwen,
        lambda: guided(image=noise_image(), mask_image=half_mask(), **IMG2IMG),
        vae=QWEN_VAE,
    ),
    entry(
        "QwenImageControlNetPipeline",
        _qwen,
        lambda: guided(control_image=noise_image()),
        vae=QWEN_VAE,
        controlnet=_qwen_controlnet(),
    ),
    entry(
        "QwenImageControlNetInpaintPipeline",
        _qwen,
        lambda: guided(control_image=noise_image(), control_mask=half_mask()),
        vae=QWEN_VAE,
        controlnet=_qwen_controlnet(4),
    ),
    entry(
        "QwenImageEditPipeline",
        _qwen,
        lambda: guided(image=noise_image(), height=512, width=512),
        **MEGAPIXEL,
    ),
    entry(
        "QwenImageEditInpaintPipeline",
        _qwen,
        lambda: guided(image=noise_image(), mask_image=half_mask(), height=1024, width=1024, **IMG2IMG),
        **MEGAPIXEL,
    ),
    entry(
        "QwenImageEditPlusPipeline",
        _qwen,
        lambda: guided(image=[noise_image(), noise_image(1)], height=512, width=512),
        **MEGAPIXEL,
    ),
    entry(
        "QwenImageLayeredPipeline",
        _layered,
        _layers,
        change=_write,
        vae=QWEN_VAE,
        text_encoder=llama(12),
    ),
    # The first step stores the prompt's keys and values, which the later steps read.
    entry(
        "QwenImage21Pipeline",
        _qwen21,
        lambda: {
            "prompt_embeds": embeds(1, 5, 12),
            "negative_prompt_embeds": embeds(2, 5, 12),
            "true_cfg_scale": 3.0,
            "height": 64,
            "width": 64,
        },
        processor=_Processor(),
    ),
    entry("ZImagePipeline", _z_image, lambda: z_image(cfg_truncation=0.6)),
    entry("ZImageImg2ImgPipeline", _z_image, lambda: z_image(image=noise_image(), **IMG2IMG), vae=VAE4),
    entry(
        "ZImageInpaintPipeline",
        _z_image,
        lambda: z_image(image=noise_image(), mask_image=half_mask(), **IMG2IMG),
        vae=VAE4,
    ),
    entry(
        "ZImageControlNetPipeline",
        _z_image,
        lambda: z_image(control_image=noise_image()),
        vae=VAE4,
        controlnet=_z_controlnet(4),
    ),
    entry(
        "ZImageControlNetInpaintPipeline",
        _z_image,
        lambda: z_image(image=noise_image(), mask_image=half_mask(), control_image=noise_image(1)),
        vae=VAE4,
        controlnet=_z_controlnet(9),
    ),
    entry(
        "ZImageOmniPipeline",
        lambda: _z_image(siglip_feat_dim=8),
        _omni,
        # The pipeline gives it pictures of this type.
        vae=lambda: VAE4().bfloat16(),
        siglip=_siglip,
        siglip_processor=_SiglipProcessor(),
    ),
)
