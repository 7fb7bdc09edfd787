"""Entries: HunyuanVideo and its kin: HunyuanVideo 1.5, Framepack, Kandinsky 5, Motif."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.builders import masks, model, pipeline, prompts, sampler
from tests.families.video import HUNYUAN, HUNYUAN15, HUNYUAN_I2V, MASK, hunyuan_vae, wan_vae
from tests.zoo.entry import Entry
from tests.zoo.videos_parts import TEXT, call, entry, of, picture, spread

# The models ---------------------------------------------------------------------------------------

HUNYUAN_SIZES = {
    "num_attention_heads": 2,
    "attention_head_dim": 10,
    "num_layers": 2,
    "num_single_layers": 2,
    "num_refiner_layers": 1,
    "mlp_ratio": 2.0,
    "text_embed_dim": TEXT,
    "pooled_projection_dim": 8,
    "rope_axes_dim": (2, 4, 4),
}
_skyreels = model("HunyuanVideoTransformer3DModel", in_channels=4 + 4, out_channels=4, **HUNYUAN_SIZES)
_framepack = model(
    "HunyuanVideoFramepackTransformer3DModel",
    in_channels=4,
    out_channels=4,
    **HUNYUAN_SIZES,
    has_image_proj=True,
    image_proj_dim=8,
    has_clean_x_embedder=True,
)
_kandinsky5 = model(
    "Kandinsky5Transformer3DModel",
    then=spread(),
    in_visual_dim=4,
    out_visual_dim=4,
    in_text_dim=TEXT,
    in_text_dim2=8,
    time_dim=8,
    model_dim=16,
    ff_dim=32,
    num_text_blocks=1,
    num_visual_blocks=3,
    axes_dims=(4, 6, 6),
    visual_cond=True,
)
_motif = model(
    "MotifVideoTransformer3DModel",
    then=spread(),
    in_channels=4 + 4 + 1,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=10,
    num_layers=2,
    num_single_layers=4,
    num_decoder_layers=2,
    mlp_ratio=2.0,
    text_embed_dim=TEXT,
    rope_axes_dim=(2, 4, 4),
)

# The other parts ----------------------------------------------------------------------------------


def siglip() -> nn.Module:
    """An encoder of pictures of 8 by 8 pixels, 8 channels wide."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2}
    return SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=8, patch_size=4)).eval()


def siglip_processor() -> Any:
    """What prepares pictures for `siglip`."""
    from transformers import SiglipImageProcessor

    return SiglipImageProcessor(size={"height": 8, "width": 8})


def guider() -> Any:
    """Guidance of two branches."""
    from diffusers import ClassifierFreeGuidance

    return ClassifierFreeGuidance(guidance_scale=3.0)


def _hunyuan15_from_image() -> Any:
    """HunyuanVideo 1.5 whose four tokens of the picture are encoded."""
    twin = HUNYUAN15.build()
    parts = {
        "vae": twin.vae,
        "guider": guider,
        "image_encoder": siglip,
        "feature_extractor": siglip_processor,
    }
    pipe = pipeline("HunyuanVideo15ImageToVideoPipeline", **parts)(twin.transformer, twin.scheduler)
    pipe.vision_num_semantic_tokens = 4
    return pipe


def _hunyuan15_inputs() -> dict[str, Any]:
    sizes = {"height", "width", "guidance_scale"}
    arguments = HUNYUAN15.arguments(num_inference_steps=6)
    return {**{k: v for k, v in arguments.items() if k not in sizes}, "image": picture()}


# Their arguments ----------------------------------------------------------------------------------

FLOW = sampler("FlowMatchEulerDiscreteScheduler", shift=7.0)
PROMPT = {"prompt_embeds": (5, TEXT), "pooled_prompt_embeds": (8,)}
TWO_PROMPTS = {**PROMPT, "negative_prompt_embeds": (5, TEXT), "negative_pooled_prompt_embeds": (8,)}
LENGTHS = torch.tensor([0, 5], dtype=torch.int32)
QWEN_AND_CLIP = {
    "prompt_embeds_qwen": (5, TEXT),
    "prompt_embeds_clip": (8,),
    "negative_prompt_embeds_qwen": (5, TEXT),
    "negative_prompt_embeds_clip": (8,),
}
KANDINSKY = {
    "num_frames": 5,
    "guidance_scale": 3.0,
    "prompt_cu_seqlens": LENGTHS,
    "negative_prompt_cu_seqlens": LENGTHS,
}
SEEING = {"image_encoder": siglip, "feature_extractor": siglip_processor}

ENTRIES: tuple[Entry, ...] = (
    of(HUNYUAN, "HunyuanVideoPipeline", "sequential"),
    of(HUNYUAN_I2V, "HunyuanVideoImageToVideoPipeline"),
    entry(
        "HunyuanSkyreelsImageToVideoPipeline",
        _skyreels,
        call(TWO_PROMPTS, image=picture(), num_frames=5, true_cfg_scale=3.0, **masks(MASK)),
        FLOW,
        {"vae": hunyuan_vae},
    ),
    # Two sections of frames, one denoising loop each.
    entry(
        "HunyuanVideoFramepackPipeline",
        _framepack,
        call(PROMPT, image=picture(), num_frames=17, latent_window_size=3, prompt_attention_mask=MASK),
        FLOW,
        {"vae": hunyuan_vae, **SEEING},
    ),
    of(HUNYUAN15, "HunyuanVideo15Pipeline"),
    Entry("HunyuanVideo15ImageToVideoPipeline", _hunyuan15_from_image, _hunyuan15_inputs),
    entry(
        "Kandinsky5T2VPipeline",
        _kandinsky5,
        call(QWEN_AND_CLIP, **KANDINSKY),
        FLOW,
        {"vae": hunyuan_vae},
    ),
    # Its latents are changed in place.
    entry(
        "Kandinsky5I2VPipeline",
        _kandinsky5,
        call(QWEN_AND_CLIP, **{**KANDINSKY, "num_frames": 17}, image=picture()),
        FLOW,
        {"vae": hunyuan_vae},
        fast=True,
    ),
    entry(
        "MotifVideoPipeline",
        _motif,
        call(prompts(5, TEXT), num_frames=5, **masks(MASK)),
        FLOW,
        {"vae": wan_vae(), "guider": guider},
        fast=True,
    ),
    entry(
        "MotifVideoImage2VideoPipeline",
        _motif,
        call(prompts(5, TEXT), prompt=None, image=picture(), num_frames=5, **masks(MASK)),
        FLOW,
        {"vae": wan_vae(), "guider": guider},
    ),
)
