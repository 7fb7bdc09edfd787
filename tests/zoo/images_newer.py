"""Entries: Ovis, LongCat, GLM-Image, Bria, Ernie, Krea, Nucleus."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn

from tests.builders import Call, embeds, generator, inputs, model, noise_image, prompts
from tests.families.video import wan_vae
from tests.pipelines import FLUX
from tests.zoo.entry import Entry
from tests.zoo.images_flux import FLUX2_VAE
from tests.zoo.images_parts import (
    Letters,
    coarse,
    entry,
    kl_vae,
    llama,
    opened,
    words,
)

HEADS: Call = {"attention_head_dim": 8, "num_attention_heads": 2}
DOUBLE: Call = {**HEADS, "num_layers": 2, "num_single_layers": 2, "joint_attention_dim": 12}
PROMPTS = inputs(prompts(5, 12))

_ovis = model(
    "OvisImageTransformer2DModel", in_channels=16, out_channels=16, axes_dims_rope=(2, 2, 4), **DOUBLE
)
_longcat = model(
    "LongCatImageTransformer2DModel",
    in_channels=64,
    pooled_projection_dim=12,
    axes_dims_rope=[2, 2, 4],
    **DOUBLE,
)
_glm = model(
    "GlmImageTransformer2DModel",
    in_channels=4,
    out_channels=4,
    num_layers=3,
    text_embed_dim=12,
    time_embed_dim=8,
    condition_dim=4,
    prior_vq_quantizer_codebook_size=16,
    **HEADS,
)
_bria = model("BriaTransformer2DModel", in_channels=16, axes_dims_rope=[0, 4, 4], **DOUBLE)
_fibo = model(
    "BriaFiboTransformer2DModel",
    in_channels=16,
    num_layers=2,
    num_single_layers=2,
    joint_attention_dim=16,
    text_encoder_dim=8,
    axes_dims_rope=[0, 4, 4],
    **HEADS,
)
_fibo2 = model(
    "BriaFibo2Transformer2DModel",
    in_channels=4,
    dim=24,
    n_layers=4,
    n_refiner_layers=1,
    n_heads=2,
    cap_feat_dim=12,
    injection_layer_ids=(1, 3),
    perceiver_num_layers=1,
    min_num_gist_tokens=4,
    max_num_gist_tokens=8,
    gist_step=4,
    gist_min_text_len=4,
    gist_max_text_len=16,
    axes_dims=(4, 4, 4),
    axes_lens=(64, 16, 16),
)
_ernie = model(
    "ErnieImageTransformer2DModel",
    opened,
    hidden_size=16,
    num_attention_heads=2,
    num_layers=3,
    ffn_hidden_size=32,
    in_channels=4,
    out_channels=4,
    text_in_dim=12,
    rope_axes_dim=(4, 2, 2),
)
_krea = model(
    "Krea2Transformer2DModel",
    in_channels=16,
    num_layers=3,
    num_key_value_heads=1,
    intermediate_size=32,
    timestep_embed_dim=16,
    text_hidden_dim=12,
    num_text_layers=2,
    text_num_attention_heads=2,
    text_num_key_value_heads=2,
    text_intermediate_size=16,
    num_layerwise_text_blocks=1,
    num_refiner_text_blocks=1,
    axes_dims_rope=(4, 2, 2),
    **HEADS,
)


def _experts(nucleus: nn.Module) -> None:
    """Numbers for the experts, which a fresh model leaves as memory has them."""
    state = generator(9)
    for parameter in nucleus.parameters():
        if parameter.ndim == 3:
            parameter.copy_(torch.randn(parameter.shape, generator=state) * 0.2)


_nucleus = model(
    "NucleusMoEImageTransformer2DModel",
    _experts,
    in_channels=16,
    out_channels=4,
    num_layers=3,
    joint_attention_dim=12,
    axes_dims_rope=(4, 2, 2),
    mlp_ratio=2.0,
    dense_moe_strategy="leave_first_block_dense",
    num_experts=4,
    moe_intermediate_dim=16,
    capacity_factors=2.0,
    **HEADS,
)


def _write(pipe: Any) -> None:
    """Prompts as embeddings without a text encoder."""
    pipe._encode_prompt = lambda prompt, image=None: words(prompt[0], 5, 12)


def _write_and_shrink(pipe: Any) -> None:
    _write(pipe)
    coarse(8)(pipe)


class _TextProcessor:
    """What the pipeline takes from its processor when it is made."""

    image_processor = None


def _glm_vae() -> nn.Module:
    vae: Any = kl_vae(4)()
    vae.register_to_config(latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    return vae


def _glm_text(**more: Any) -> Call:
    prior = torch.arange(16)[None] % 16
    return {**PROMPTS(1), "prior_token_ids": prior, "guidance_scale": 3.0, **more}


def _glm_edit() -> Call:
    return _glm_text(
        image=[[noise_image()]],
        prior_token_image_ids=[torch.arange(16)],
        source_image_grid_thw=[torch.tensor([[1, 4, 4]])],
    )


# Named as what the pipeline wants of a prompt.
EDIT = json.dumps({"edit_instruction": "a"})
SHIFTED = FLUX.samplers["flow_euler"]
LETTERS: Call = {"tokenizer": Letters(), "text_encoder": llama(8)}
MASK = torch.tensor([[1, 1, 1, 1, 0]])

ENTRIES: tuple[Entry, ...] = (
    entry("OvisImagePipeline", _ovis, lambda: {**PROMPTS(1), "negative_prompt": None}),
    entry(
        "LongCatImagePipeline",
        _longcat,
        lambda: {"prompt": "a", "height": 64, "width": 64, "enable_prompt_rewrite": False},
        change=_write,
    ),
    entry(
        "LongCatImageEditPipeline",
        _longcat,
        lambda: {"prompt": "a", "image": noise_image()},
        change=_write_and_shrink,
        vae=kl_vae(16),
        text_processor=_TextProcessor(),
    ),
    entry("GlmImagePipeline", _glm, _glm_text, vae=_glm_vae),
    # Reference images go through the denoiser before the loop, for their keys and values.
    entry("GlmImagePipeline (edit)", _glm, _glm_edit, vae=_glm_vae),
    entry("BriaPipeline", _bria, lambda: PROMPTS(1), vae=kl_vae(4)),
    entry(
        "BriaFiboPipeline",
        _fibo,
        lambda: {"prompt": "a", "negative_prompt": "bcd", "height": 64, "width": 64},
        **LETTERS,
    ),
    entry(
        "BriaFiboEditPipeline",
        _fibo,
        lambda: {"prompt": EDIT, "negative_prompt": "bcd", "image": noise_image(), "height": 64, "width": 64},
        vae=wan_vae(16),
        **LETTERS,
    ),
    entry(
        "BriaFibo2Pipeline",
        _fibo2,
        lambda: {
            **inputs({"prompt_embeds": (3, 5, 12), "negative_prompt_embeds": (3, 9, 12)})(1),
            "guidance_scale": 3.0,
        },
        vae=FLUX2_VAE,
    ),
    entry(
        "ErnieImagePipeline",
        _ernie,
        lambda: {
            "prompt_embeds": [embeds(1, 5, 12)[0]],
            "negative_prompt_embeds": [embeds(2, 3, 12)[0]],
            "height": 64,
            "width": 64,
        },
    ),
    entry(
        "Krea2Pipeline",
        _krea,
        lambda: {
            **inputs(prompts(5, 2, 12))(1),
            "prompt_embeds_mask": MASK.bool(),
            "negative_prompt_embeds_mask": MASK.bool(),
        },
    ),
    entry(
        "NucleusMoEImagePipeline",
        _nucleus,
        lambda: {**PROMPTS(1), "prompt_embeds_mask": MASK, "negative_prompt_embeds_mask": MASK},
    ),
)
