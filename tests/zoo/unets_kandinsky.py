"""Entries: Kandinsky 2.1 to 3, Kolors, Stable Cascade and Wuerstchen; most have a prior of their own."""

from __future__ import annotations

from typing import Any

import torch

from tests.builders import generator, model, sampler
from tests.families.unets import sdxl_model
from tests.pipelines import NOISE_SAMPLERS
from tests.zoo.entry import STEPS, Entry
from tests.zoo.unets_parts import (
    POOLED,
    SIZED,
    TEXTS,
    TOKENS,
    Words,
    beside,
    clip_images,
    clip_text,
    clip_vision,
    drawn,
    entry,
    latent,
    picture,
    prior,
    seeded_module,
    unet,
    vae,
    words,
)

DDIM, EULER = NOISE_SAMPLERS["ddim"], NOISE_SAMPLERS["euler"]
DDPM = sampler("DDPMScheduler", beta_schedule="linear", beta_start=0.00085, beta_end=0.012)
UNCLIP = sampler(
    "UnCLIPScheduler",
    variance_type="fixed_small_log",
    prediction_type="sample",
    num_train_timesteps=1000,
    clip_sample=True,
    clip_sample_range=5.0,
)
simple_unet = model(
    "UNet2DConditionModel",
    sample_size=8,
    in_channels=4,
    out_channels=8,
    layers_per_block=1,
    # Its attention has 32 groups whatever the configuration.
    block_out_channels=(32, 32),
    down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    cross_attention_dim=12,
    encoder_hid_dim=12,
    attention_head_dim=8,
    resnet_time_scale_shift="scale_shift",
)
movq = model(
    "VQModel",
    block_out_channels=(32, 32),
    down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    latent_channels=4,
    layers_per_block=1,
    norm_type="spatial",
    num_vq_embeddings=12,
    vq_embed_dim=4,
)


def mclip() -> Any:
    """Kandinsky 2.1's text encoder."""
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

    config = MCLIPConfig(
        transformerDimSize=12,
        imageDimSize=12,
        vocab_size=40,
        hidden_size=12,
        intermediate_size=12,
        num_attention_heads=2,
        num_hidden_layers=1,
        max_position_embeddings=80,
        pad_token_id=0,
    )
    return seeded_module(lambda: MultilingualCLIP(config))


def kind(addition: str, hidden: str, channels: int = 4) -> Any:
    """What makes the UNet with these kinds of additional embeddings."""
    return lambda: simple_unet(
        addition_embed_type=addition, encoder_hid_dim_type=hidden, in_channels=channels
    )


def pictures(**given: Any) -> Any:
    """What makes the arguments of a call that returns pictures as tensors."""
    return latent(**{"output_type": "pt", "guidance_scale": 3.0, **given})


K21 = {
    "text_encoder": mclip,
    "tokenizer": words(77),
    "unet": kind("text_image", "text_image_proj"),
    "scheduler": DDIM,
    "movq": movq,
}
K21_INPAINT = {**K21, "unet": kind("text_image", "text_image_proj", 9)}
K22 = {"unet": kind("image", "image_proj"), "scheduler": DDIM, "movq": movq}
K22_INPAINT = {**K22, "unet": kind("image", "image_proj", 9)}
HINTED = {**K22, "unet": kind("image_hint", "image_proj", 8)}
PRIOR = {
    "prior": prior,
    "image_encoder": clip_vision(),
    "text_encoder": clip_text(project=12),
    "tokenizer": words(),
    "scheduler": UNCLIP,
    "image_processor": clip_images(),
}
PRIOR_TOO = {f"prior_{name}": part for name, part in PRIOR.items()}
EMBEDS = {"image_embeds": drawn(1, 12), "negative_image_embeds": drawn(2, 12)}
PICTURE = {"image": picture(), "strength": 0.8, "num_inference_steps": 8}
MASKED = {"image": picture(), "mask_image": picture(mode="L")}
# As many steps of the prior as of the decoder are the exception.
PRIOR_STEPS = {"prompt": "a cat", "prior_num_inference_steps": STEPS + 2, **SIZED}

KANDINSKY = (
    unet("KandinskyPipeline", K21, pictures(prompt="a cat", **EMBEDS, **SIZED)),
    unet(
        "KandinskyImg2ImgPipeline",
        {**K21, "scheduler": sampler("DDIMScheduler", clip_sample=False)},
        pictures(prompt="a cat", **EMBEDS, **PICTURE, **SIZED),
    ),
    unet(
        "KandinskyInpaintPipeline",
        K21_INPAINT,
        pictures(prompt="a cat", **EMBEDS, **MASKED, **SIZED),
    ),
    entry("KandinskyPriorPipeline", PRIOR, pictures(prompt="a cat"), fast=True),
    unet(
        "KandinskyCombinedPipeline",
        {**K21, **PRIOR_TOO},
        pictures(**PRIOR_STEPS, negative_prompt="a dog"),
    ),
    unet(
        "KandinskyImg2ImgCombinedPipeline",
        {**K21, **PRIOR_TOO},
        pictures(**PRIOR_STEPS, **PICTURE),
    ),
    unet(
        "KandinskyInpaintCombinedPipeline",
        {**K21_INPAINT, **PRIOR_TOO},
        pictures(**PRIOR_STEPS, **MASKED),
    ),
    unet("KandinskyV22Pipeline", K22, pictures(**EMBEDS, **SIZED)),
    unet("KandinskyV22Img2ImgPipeline", K22, pictures(**EMBEDS, **PICTURE, **SIZED)),
    unet("KandinskyV22InpaintPipeline", K22_INPAINT, pictures(**EMBEDS, **MASKED, **SIZED)),
    unet(
        "KandinskyV22ControlnetPipeline",
        HINTED,
        pictures(**EMBEDS, hint=drawn(5, 3, 64, 64), **SIZED),
    ),
    unet(
        "KandinskyV22ControlnetImg2ImgPipeline",
        HINTED,
        pictures(**EMBEDS, **PICTURE, hint=drawn(5, 3, 64, 64), **SIZED),
    ),
    entry("KandinskyV22PriorPipeline", PRIOR, pictures(prompt="a cat")),
    entry(
        "KandinskyV22PriorEmb2EmbPipeline",
        PRIOR,
        pictures(prompt="a cat", image=drawn(3, 12), strength=0.8, num_inference_steps=8),
    ),
    unet("KandinskyV22CombinedPipeline", {**K22, **PRIOR_TOO}, pictures(**PRIOR_STEPS)),
    unet(
        "KandinskyV22Img2ImgCombinedPipeline",
        {**K22, **PRIOR_TOO},
        pictures(**PRIOR_STEPS, **PICTURE),
    ),
    unet(
        "KandinskyV22InpaintCombinedPipeline",
        {**K22_INPAINT, **PRIOR_TOO},
        pictures(**PRIOR_STEPS, **MASKED),
    ),
)

kandinsky3 = model(
    "Kandinsky3UNet",
    in_channels=4,
    time_embedding_dim=8,
    groups=4,
    attention_head_dim=4,
    layers_per_block=2,
    block_out_channels=(8, 16),
    cross_attention_dim=12,
    encoder_hid_dim=12,
)
MASKS = {"attention_mask": torch.ones(1, 5), "negative_attention_mask": torch.ones(1, 5)}

K3 = {"unet": kandinsky3, "scheduler": DDPM, "movq": movq}
KANDINSKY_3 = (
    unet("Kandinsky3Pipeline", K3, latent(**TEXTS, **MASKS, **SIZED), fast=True),
    unet("Kandinsky3Img2ImgPipeline", K3, latent(**TEXTS, **MASKS, **PICTURE)),
)


class Placed(Words):
    """A tokenizer that says where each token stands."""

    def __call__(self, text: str | list[str], max_length: int | None = None, **more: Any) -> Any:
        batch = super().__call__(text, max_length=TOKENS, **more)
        batch["position_ids"] = torch.arange(TOKENS).expand_as(batch["input_ids"])
        return batch


def placed() -> Placed:
    """What makes it."""
    return Placed()


def chatglm() -> Any:
    """Kolors's text encoder."""
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel

    config = ChatGLMConfig(
        num_layers=1,
        padded_vocab_size=40,
        hidden_size=16,
        ffn_hidden_size=16,
        kv_channels=8,
        num_attention_heads=2,
        seq_length=TOKENS,
        original_rope=True,
    )
    encoder = seeded_module(lambda: ChatGLMModel(config))
    for seed, parameter in enumerate(encoder.parameters()):
        # It makes its parameters without values.
        parameter.copy_(torch.randn(parameter.shape, generator=generator(seed)) * 0.3)
    return encoder


def kolors_unet(pooled: int = 8) -> Any:
    """What makes the UNet for pooled embeddings of that size."""
    return lambda: sdxl_model(
        encoder_hid_dim_type="text_proj",
        encoder_hid_dim=16,
        projection_class_embeddings_input_dim=pooled + 6 * 4,
    )


KOLORS = {
    "unet": kolors_unet(),
    "scheduler": EULER,
    "vae": vae,
}
TEXTS_KOLORS = {**POOLED, "prompt_embeds": drawn(1, 5, 16), "negative_prompt_embeds": drawn(2, 5, 16)}
KOLORS_ENTRIES = (
    unet(
        "diffusers.pipelines.kolors.pipeline_kolors:KolorsPipeline", KOLORS, latent(**TEXTS_KOLORS, **SIZED)
    ),
    unet(
        "diffusers.pipelines.kolors.pipeline_kolors_img2img:KolorsImg2ImgPipeline",
        {
            **KOLORS,
            "unet": kolors_unet(16),
            "text_encoder": chatglm,
            "tokenizer": placed,
        },
        latent(prompt="a cat", guidance_scale=3.0, **PICTURE, **SIZED),
    ),
    unet(
        "diffusers.pipelines.pag.pipeline_pag_kolors:KolorsPAGPipeline",
        KOLORS,
        latent(**TEXTS_KOLORS, **SIZED, pag_scale=2.0),
    ),
)

cascade_prior = model(
    "StableCascadeUNet",
    in_channels=4,
    out_channels=4,
    timestep_ratio_embedding_dim=8,
    conditioning_dim=16,
    block_out_channels=(16, 16),
    num_attention_heads=(2, 2),
    down_num_layers_per_block=(1, 1),
    up_num_layers_per_block=(1, 1),
    down_blocks_repeat_mappers=(1, 1),
    up_blocks_repeat_mappers=(1, 1),
    block_types_per_layer=(("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),) * 2,
    clip_text_in_channels=12,
    clip_text_pooled_in_channels=12,
    clip_image_in_channels=12,
    clip_seq=4,
    kernel_size=3,
    dropout=(0.0, 0.0),
    self_attn=(True, True),
    timestep_conditioning_type=("sca", "crp"),
    switch_level=(False,),
)
cascade_decoder = model(
    "StableCascadeUNet",
    in_channels=4,
    out_channels=4,
    timestep_ratio_embedding_dim=8,
    conditioning_dim=16,
    block_out_channels=(16, 16),
    num_attention_heads=(0, 2),
    down_num_layers_per_block=(1, 1),
    up_num_layers_per_block=(1, 1),
    down_blocks_repeat_mappers=(1, 1),
    up_blocks_repeat_mappers=(1, 1),
    block_types_per_layer=(
        ("SDCascadeResBlock", "SDCascadeTimestepBlock"),
        ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),
    ),
    clip_text_pooled_in_channels=12,
    clip_seq=4,
    effnet_in_channels=4,
    kernel_size=3,
    dropout=(0.0, 0.0),
    self_attn=(True, True),
    timestep_conditioning_type=("sca",),
    switch_level=None,
    patch_size=2,
)
paella = beside(
    "WuerstchenDecoderPipeline",
    "PaellaVQModel",
    embed_dim=8,
    levels=2,
    bottleneck_blocks=1,
    num_vq_embeddings=16,
)
WALK = sampler("DDPMWuerstchenScheduler")
CASCADE_TEXTS = {
    **TEXTS,
    "prompt_embeds_pooled": drawn(3, 1, 12),
    "negative_prompt_embeds_pooled": drawn(4, 1, 12),
}
CASCADE_PRIOR = {"prior": cascade_prior, "scheduler": WALK, "text_encoder": clip_text(project=12)}
CASCADE = {
    "text_encoder": clip_text(project=12),
    "decoder": cascade_decoder,
    "scheduler": WALK,
    "vqgan": paella,
}
BOTH_TEXTS = {name: value for name, value in CASCADE_TEXTS.items() if name != "guidance_scale"}
CASCADE_ENTRIES = (
    unet(
        "StableCascadePriorPipeline",
        {**CASCADE_PRIOR, "resolution_multiple": 4.0},
        latent(**CASCADE_TEXTS, **SIZED),
    ),
    unet(
        "StableCascadeDecoderPipeline",
        {**CASCADE, "latent_dim_scale": 4.0},
        latent(**CASCADE_TEXTS, image_embeddings=drawn(5, 4, 2, 2)),
    ),
    unet(
        "StableCascadeCombinedPipeline",
        {
            **CASCADE,
            "prior_prior": cascade_prior,
            "prior_scheduler": WALK,
            "prior_text_encoder": clip_text(project=12),
        },
        latent(
            **BOTH_TEXTS,
            height=128,
            width=128,
            prior_num_inference_steps=STEPS + 2,
            prior_guidance_scale=3.0,
            decoder_guidance_scale=2.0,
        ),
    ),
)

wuerstchen_prior = beside(
    "WuerstchenPriorPipeline", "WuerstchenPrior", c_in=4, c=16, c_cond=12, c_r=8, depth=2, nhead=2
)
wuerstchen_decoder = beside(
    "WuerstchenDecoderPipeline",
    "WuerstchenDiffNeXt",
    c_in=4,
    c_out=4,
    c_r=8,
    c_cond=12,
    c_hidden=[16, 16],
    nhead=[-1, 2],
    blocks=[1, 1],
    level_config=["CT", "CTA"],
    clip_embd=12,
    inject_effnet=[False, True],
    effnet_embd=4,
)

WUERSTCHEN_PRIOR = {
    "prior": wuerstchen_prior,
    "scheduler": WALK,
    "text_encoder": clip_text(),
    "tokenizer": words(),
}
WUERSTCHEN = {
    "decoder": wuerstchen_decoder,
    "scheduler": WALK,
    "text_encoder": clip_text(),
    "tokenizer": words(),
    "vqgan": paella,
}
WUERSTCHEN_ENTRIES = (
    entry(
        "WuerstchenPriorPipeline",
        {**WUERSTCHEN_PRIOR, "resolution_multiple": 4.0},
        latent(**TEXTS, **SIZED),
    ),
    unet(
        "WuerstchenDecoderPipeline",
        {**WUERSTCHEN, "latent_dim_scale": 4.0},
        latent(prompt="a cat", guidance_scale=2.0, image_embeddings=drawn(5, 4, 2, 2)),
    ),
    unet(
        "WuerstchenCombinedPipeline",
        {**WUERSTCHEN, **{f"prior_{name}": part for name, part in WUERSTCHEN_PRIOR.items()}},
        latent(
            prompt="a cat",
            height=128,
            width=128,
            prior_num_inference_steps=STEPS + 2,
            prior_guidance_scale=3.0,
            decoder_guidance_scale=2.0,
        ),
    ),
)

ENTRIES: tuple[Entry, ...] = (
    *KANDINSKY,
    *KANDINSKY_3,
    *KOLORS_ENTRIES,
    *CASCADE_ENTRIES,
    *WUERSTCHEN_ENTRIES,
)
