"""Entries: other families, from PRX to Amused."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.builders import Call, embeds, inputs, masks, model, noise_image, prompts, sampler
from tests.families.video import wan_vae
from tests.pipelines import flux_model
from tests.zoo.entry import Entry
from tests.zoo.images_parts import (
    Letters,
    coarse,
    entry,
    half_mask,
    kl_vae,
    llama,
    opened,
    words,
)

HEADS: Call = {"attention_head_dim": 8, "num_attention_heads": 2}
PROMPTS = inputs(prompts(5, 12))
MASK = torch.tensor([[1, 1, 1, 1, 0]])
LETTERS: Call = {"tokenizer": Letters(), "text_encoder": llama(12)}

_prx: Call = {
    "context_in_dim": 12,
    "hidden_size": 16,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 3,
    "axes_dim": [4, 4],
}
prx = model("PRXTransformer2DModel", opened, in_channels=4, **_prx)
prx_pixel = model("PRXTransformer2DModel", opened, in_channels=3, patch_size=8, bottleneck_size=8, **_prx)
ideogram = model(
    "Ideogram4Transformer2DModel",
    in_channels=16,
    num_layers=3,
    intermediate_size=32,
    adaln_dim=16,
    llm_features_dim=12,
    mrope_section=(2, 1, 1),
    **HEADS,
)
JOY: Call = {
    "in_channels": 4,
    "out_channels": 4,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "text_dim": 12,
    "mlp_width_ratio": 2.0,
    "num_layers": 3,
    "rope_dim_list": [2, 2, 4],
}
joy = model("JoyImageEditTransformer3DModel", opened, **JOY)
joy_plus = model("JoyImageEditPlusTransformer3DModel", opened, **JOY)
KANDINSKY: Call = {
    "in_visual_dim": 4,
    "in_text_dim": 12,
    "in_text_dim2": 8,
    "time_dim": 16,
    "out_visual_dim": 4,
    "model_dim": 16,
    "ff_dim": 32,
    "num_text_blocks": 1,
    "num_visual_blocks": 3,
    "axes_dims": (2, 2, 4),
}
kandinsky = model("Kandinsky5Transformer3DModel", opened, **KANDINSKY)
kandinsky_i2i = model("Kandinsky5Transformer3DModel", opened, **KANDINSKY, visual_cond=True)
dreamlite = model(
    "DreamLiteUNetModel",
    sample_size=8,
    down_block_types=("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
    up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
    block_out_channels=(8, 16),
    cross_attention_dim=12,
    attention_head_dim=8,
    layers_per_block=1,
    norm_num_groups=4,
)
cosmos = model(
    "CosmosTransformer3DModel",
    opened,
    in_channels=4,
    out_channels=4,
    attention_head_dim=12,
    num_attention_heads=2,
    num_layers=3,
    mlp_ratio=2,
    text_embed_dim=12,
    adaln_lora_dim=4,
    max_size=(4, 8, 8),
    concat_padding_mask=True,
    extra_pos_embed_type=None,
)
HUNYUAN: Call = {
    "num_layers": 2,
    "num_single_layers": 2,
    "num_refiner_layers": 1,
    "mlp_ratio": 2.0,
    "text_embed_dim": 12,
    **HEADS,
}
hunyuan = model(
    "HunyuanImageTransformer2DModel",
    in_channels=4,
    out_channels=4,
    text_embed_2_dim=6,
    rope_axes_dim=(4, 4),
    **HUNYUAN,
)
refiner = model(
    "HunyuanImageTransformer2DModel",
    in_channels=8,
    out_channels=4,
    patch_size=(1, 1, 1),
    guidance_embeds=True,
    rope_axes_dim=(4, 2, 2),
    **HUNYUAN,
)
omnigen = model(
    "OmniGenTransformer2DModel",
    in_channels=4,
    hidden_size=16,
    num_attention_heads=2,
    num_key_value_heads=2,
    intermediate_size=32,
    num_layers=3,
    pad_token_id=0,
    vocab_size=32,
    time_step_dim=8,
    rope_scaling={"long_factor": [1, 1, 2, 2], "short_factor": [1, 1, 2, 2]},
)


def _loud(amused: Any) -> None:
    """Blocks that matter enough to change which tokens are drawn."""
    for parameter in amused.transformer_layers.parameters():
        parameter.mul_(2.0)


amused = model(
    "UVit2DModel",
    _loud,
    hidden_size=16,
    cond_embed_dim=8,
    micro_cond_encode_dim=2,
    micro_cond_embed_dim=10,
    encoder_hidden_size=12,
    vocab_size=32,
    codebook_size=31,
    in_channels=8,
    block_out_channels=8,
    num_res_blocks=1,
    block_num_heads=1,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=16,
    sample_size=8,
)
VQ = model(
    "VQModel",
    block_out_channels=[8, 8],
    down_block_types=["DownEncoderBlock2D"] * 2,
    up_block_types=["UpDecoderBlock2D"] * 2,
    latent_channels=8,
    norm_num_groups=4,
    num_vq_embeddings=31,
    sample_size=16,
    mid_block_add_attention=False,
    lookup_from_codebook=True,
)


def _ideogram_text(pipe: Any) -> None:
    """The embeddings of a prompt of three tokens, without a text encoder."""

    def encode(prompt: str, grid_h: int, grid_w: int, max_sequence_length: int, device: Any) -> Any:
        features = torch.cat(
            [words(prompt, max_sequence_length, 12), torch.zeros(1, grid_h * grid_w, 12)], dim=1
        )
        ids = pipe._prepare_ids([3], grid_h, grid_w, max_sequence_length, device)
        return features, *ids

    pipe.encode_prompt = encode


def _dreamlite_text(pipe: Any) -> None:
    def encode(mode: str, prompts: list[str], **options: Any) -> Any:
        return torch.cat([words(prompt, 5, 12) for prompt in prompts]), MASK.repeat(len(prompts), 1)

    pipe.encode_prompt = encode


class _Safe:
    """A safety checker that finds nothing."""

    def to(self, device: Any) -> None:
        pass

    def check_text_safety(self, prompt: str) -> bool:
        return True


def _joy_text(**more: Any) -> Call:
    call = inputs(prompts(5, 12), 1024)(1)
    mask = {"prompt_embeds_mask": MASK, "negative_prompt_embeds_mask": MASK}
    return {**call, **mask, "guidance_scale": 3.0, **more}


def _joy_plus_text(pipe: Any) -> None:
    coarse(8, "vae_scale_factor_spatial")(pipe)
    pipe.encode_prompt_multiple_images = lambda prompt, **options: (words(prompt[0], 5, 12), MASK)


def _small(pipe: Any) -> None:
    pipe.resolutions = [(64, 64)]


def _kandinsky(**more: Any) -> Call:
    sizes = {
        "prompt_embeds_qwen": (5, 12),
        "prompt_embeds_clip": (8,),
        "negative_prompt_embeds_qwen": (4, 12),
        "negative_prompt_embeds_clip": (8,),
    }
    lengths = {"prompt_cu_seqlens": torch.tensor([0, 5]), "negative_prompt_cu_seqlens": torch.tensor([0, 4])}
    return {**inputs(sizes)(1), **lengths, "guidance_scale": 3.0, **more}


def _mixed_guidance(**more: Any) -> Any:
    def make() -> Any:
        from diffusers import AdaptiveProjectedMixGuidance

        return AdaptiveProjectedMixGuidance(
            guidance_scale=3.0,
            adaptive_projected_guidance_scale=3.0,
            adaptive_projected_guidance_start_step=2,
        )

    return make()


def _hunyuan() -> Call:
    sizes = {**prompts(5, 12), "prompt_embeds_2": (4, 6), "negative_prompt_embeds_2": (4, 6)}
    mask = {
        "prompt_embeds_mask": MASK,
        "negative_prompt_embeds_mask": MASK,
        "prompt_embeds_mask_2": MASK[:, 1:],
        "negative_prompt_embeds_mask_2": MASK[:, 1:],
    }
    return {**inputs(sizes, 128)(1), **mask}


def _refiner() -> Call:
    mask = {"prompt_embeds_mask": MASK, "negative_prompt_embeds_mask": MASK}
    return {**inputs(prompts(5, 12))(1), **mask, "image": embeds(5, 4, 1, 4, 4)}


def _clip() -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(5)
    config = CLIPTextConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return CLIPTextModel(config).eval()


def _t5() -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(6)
    config = T5Config(vocab_size=32, d_model=12, d_kv=6, d_ff=16, num_layers=1, num_heads=2)
    return T5EncoderModel(config).eval()


def _cloze_model() -> nn.Module:
    return flux_model(0, in_channels=64 + 64 + 256, out_channels=64)


def _cloze(**more: Any) -> Call:
    pictures = [[noise_image(0, 32), noise_image(1, 32)], [noise_image(2, 32), None]]
    return {"task_prompt": "ab", "content_prompt": "cd", "image": pictures, "max_sequence_length": 8, **more}


CLOZE: Call = {
    "vae": kl_vae(16),
    "text_encoder": _clip,
    "tokenizer": Letters(),
    "text_encoder_2": _t5,
    "tokenizer_2": Letters(),
    "resolution": 32,
}


def _silent(pipe: Any) -> None:
    for part in (pipe.generation_pipe, pipe.upsampling_pipe):
        part.set_progress_bar_config(disable=True)


def _amused(**more: Any) -> Call:
    sizes = {
        "prompt_embeds": (8,),
        "negative_prompt_embeds": (8,),
        "encoder_hidden_states": (5, 12),
        "negative_encoder_hidden_states": (5, 12),
    }
    return {**inputs(sizes, None)(1), "guidance_scale": 3.0, **more}


AMUSED: Call = {"vqvae": VQ, "sampler": sampler("AmusedScheduler", mask_token_id=31)}

ENTRIES: tuple[Entry, ...] = (
    entry(
        "PRXPipeline",
        prx,
        lambda: {**PROMPTS(1), **masks(MASK.bool()), "use_resolution_binning": False},
    ),
    entry(
        "PRXPixelPipeline",
        prx_pixel,
        lambda: {**PROMPTS(1), **masks(MASK.bool()), "use_resolution_binning": False, "guidance_scale": 1.5},
    ),
    entry(
        "Ideogram4Pipeline",
        ideogram,
        lambda: {
            "prompt": "a",
            "height": 64,
            "width": 64,
            "guidance_schedule": (3.0,) * 6,
            "max_sequence_length": 5,
        },
        change=_ideogram_text,
        unconditional_transformer=lambda: ideogram(1),
    ),
    entry(
        "JoyImageEditPipeline",
        joy,
        lambda: _joy_text(image=noise_image()),
        change=coarse(8, "vae_scale_factor_spatial"),
        vae=wan_vae(),
    ),
    entry(
        "JoyImageEditPlusPipeline",
        joy_plus,
        lambda: {
            "prompt": "a",
            "images": [noise_image()],
            "height": 1024,
            "width": 1024,
            "guidance_scale": 3.0,
        },
        change=_joy_plus_text,
        vae=wan_vae(),
    ),
    entry("Kandinsky5T2IPipeline", kandinsky, _kandinsky, change=_small),
    # Its latents are one tensor, which the sampler's result is written into.
    entry(
        "Kandinsky5I2IPipeline",
        kandinsky_i2i,
        lambda: _kandinsky(image=noise_image()),
        change=_small,
        vae=kl_vae(4),
    ),
    entry(
        "DreamLitePipeline",
        dreamlite,
        lambda: {"prompt": "a", "image": noise_image()},
        part="unet",
        change=_dreamlite_text,
        vae=kl_vae(4),
        **LETTERS,
    ),
    entry(
        "DreamLiteMobilePipeline",
        dreamlite,
        lambda: {"prompt": "a", "height": 64, "width": 64},
        part="unet",
        change=_dreamlite_text,
        vae=kl_vae(4),
        **LETTERS,
    ),
    entry(
        "Cosmos2TextToImagePipeline",
        cosmos,
        lambda: {**PROMPTS(1), "guidance_scale": 3.0},
        sampler=sampler("FlowMatchEulerDiscreteScheduler", use_karras_sigmas=True),
        safety_checker=_Safe(),
    ),
    entry("HunyuanImagePipeline", hunyuan, _hunyuan, guider=_mixed_guidance),
    entry("HunyuanImageRefinerPipeline", refiner, _refiner, guider=_mixed_guidance),
    entry(
        "OmniGenPipeline",
        omnigen,
        lambda: {
            "prompt": "a <img><|image_1|></img> b",
            "input_images": [noise_image(0, 32)],
            "height": 64,
            "width": 64,
        },
        vae=kl_vae(4),
        tokenizer=Letters(),
    ),
    entry("VisualClozeGenerationPipeline", _cloze_model, _cloze, **CLOZE),
    # Two pipelines with one denoiser, one after the other.
    entry(
        "VisualClozePipeline",
        _cloze_model,
        lambda: _cloze(upsampling_height=64, upsampling_width=64, output_type="np", upsampling_strength=0.8),
        change=_silent,
        **CLOZE,
    ),
    entry("AmusedPipeline", amused, _amused, **AMUSED),
    entry(
        "AmusedImg2ImgPipeline",
        amused,
        lambda: _amused(image=noise_image(0, 16), strength=0.75, num_inference_steps=8),
        **AMUSED,
    ),
    entry(
        "AmusedInpaintPipeline",
        amused,
        lambda: _amused(image=noise_image(0, 16), mask_image=half_mask(16), num_inference_steps=8),
        **AMUSED,
    ),
)
