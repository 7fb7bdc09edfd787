"""Entries: Cosmos, Helios, Sana's videos and worlds, Kandinsky 6."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tests.builders import generator, masks, model, prompts, sampler
from tests.families.video import MASK, hunyuan_vae, wan_vae
from tests.pipelines import FLOW_EULER, UNIPC
from tests.zoo.entry import Entry
from tests.zoo.videos_ltx import ltx2_vae
from tests.zoo.videos_parts import (
    NO_SAMPLE,
    TEXT,
    call,
    entry,
    picture,
    spread,
    words,
)

# The models ---------------------------------------------------------------------------------------

COSMOS_SIZES = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "mlp_ratio": 2,
    "text_embed_dim": TEXT,
    "adaln_lora_dim": 4,
    "max_size": (8, 32, 32),
    "patch_size": (1, 2, 2),
    "rope_scale": (2.0, 1.0, 1.0),
    "extra_pos_embed_type": "learnable",
}
_cosmos = model(
    "CosmosTransformer3DModel", then=spread(), in_channels=4, out_channels=4, num_layers=3, **COSMOS_SIZES
)
_cosmos_control = model(
    "CosmosControlNetModel",
    then=spread(),
    n_controlnet_blocks=3,
    in_channels=4 + 1 + 1,
    latent_channels=4 + 1 + 1,
    model_channels=32,
    **COSMOS_SIZES,
    img_context_dim_in=32,
    img_context_dim_out=32,
)
_sana = model(
    "SanaVideoTransformer3DModel",
    in_channels=4,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=12,
    num_layers=3,
    num_cross_attention_heads=2,
    cross_attention_head_dim=12,
    cross_attention_dim=24,
    caption_channels=TEXT,
    sample_size=4,
    rope_max_seq_len=32,
)
_cosmos3 = model(
    "Cosmos3OmniTransformer",
    head_dim=12,
    hidden_size=24,
    intermediate_size=24,
    latent_channel=4,
    latent_patch_size=1,
    num_attention_heads=2,
    num_hidden_layers=3,
    num_key_value_heads=1,
    patch_latent_dim=4,
    rope_axes_dim=[2, 2, 2],
    vocab_size=64,
)
_sana_wm = model(
    "SanaWMTransformer3DModel",
    then=spread(),
    in_channels=4,
    num_layers=4,
    hidden_size=32,
    num_attention_heads=2,
    linear_head_dim=16,
    softmax_every_n=2,
    chunk_plucker_channels=12,
    chunk_plucker_post_attn_blocks=4,
    caption_channels=TEXT,
)
helios = model(
    "HeliosTransformer3DModel",
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=4,
    out_channels=4,
    text_dim=TEXT,
    freq_dim=16,
    ffn_dim=32,
    num_layers=3,
    rope_dim=(4, 4, 4),
)
_kandinsky6 = model(
    "Kandinsky6Transformer3DModel",
    then=spread(),
    in_visual_dim=4,
    out_visual_dim=4,
    in_text_dim=TEXT,
    in_text_dim2=8,
    time_dim=16,
    model_dim=12,
    ff_dim=24,
    num_text_blocks=1,
    num_visual_blocks=3,
    axes_dims=(2, 2, 2),
    in_audio_dim=4,
    out_audio_dim=4,
    visual_token_type_num_embeddings=2,
)
_kandinsky6_sr = model(
    "Kandinsky6SRTransformer3DModel",
    then=spread(),
    in_visual_dim=4,
    out_visual_dim=4,
    time_dim=16,
    patch_size=(1, 1, 1),
    model_dim=24,
    ff_dim=32,
    num_visual_blocks=3,
    axes_dims=(4, 4, 4),
    tile_sizes=((32, 32), (32, 64), (64, 32)),
)

# The other parts ----------------------------------------------------------------------------------

_cosmos_vae = model(
    "AutoencoderKLCosmos",
    latent_channels=4,
    encoder_block_out_channels=(8, 8, 8, 8),
    decode_block_out_channels=(8, 8, 8, 8),
    attention_resolutions=(8,),
    resolution=64,
    num_layers=1,
    patch_size=4,
    scaling_factor=1.0,
    spatial_compression_ratio=8,
    temporal_compression_ratio=4,
)
_mel_vae = model(
    "MMAudioVAE",
    mel_bins=8,
    latent_channels=4,
    hidden_channels=8,
    channel_multipliers=(1, 2),
    layers_per_block=1,
    sample_rate=64,
    n_fft=16,
    hop_length=4,
)
_vocoder = model(
    "MMAudioVocoder",
    num_mels=8,
    upsample_initial_channel=8,
    upsample_rates=(2, 2),
    upsample_kernel_sizes=(4, 4),
    resblock_kernel_sizes=(3,),
    resblock_dilation_sizes=((1, 3),),
)
_sr_vae = model(
    "Kandinsky6SRVAE",
    latent_channels=4,
    encoder_block_out_channels=(4, 8, 8),
    decoder_block_out_channels=(4, 8, 8),
    layers_per_block=1,
    temporal_compression_ratio=4,
    temporal_compression_start_level=0,
)


class Lenient:
    """In the place of Cosmos' guardrail: everything is safe."""

    def to(self, *args: Any, **kwargs: Any) -> Lenient:
        return self

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video


def _lenient() -> Lenient:
    return Lenient()


def _chat() -> Any:
    """A tokenizer of conversations."""
    made = words()
    made.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    return made


# Their arguments ----------------------------------------------------------------------------------

PROMPTS = prompts(5, TEXT)
GUIDED = {"num_frames": 9, "guidance_scale": 3.0}
COSMOS = {"vae": _cosmos_vae, "safety_checker": _lenient}
COSMOS2 = {"vae": wan_vae(), "safety_checker": _lenient}
EDM = sampler(
    "EDMEulerScheduler",
    sigma_min=0.002,
    sigma_max=80,
    sigma_data=0.5,
    sigma_schedule="karras",
    prediction_type="epsilon",
    final_sigmas_type="sigma_min",
)
KARRAS = sampler("FlowMatchEulerDiscreteScheduler", use_karras_sigmas=True)
SEEN = {"in_channels": 4 + 1}
CONTEXT = {"img_context_dim_in": 32, "img_context_num_tokens": 4, "img_context_dim_out": 32}
SANA = {
    "frames": 9,
    "guidance_scale": 3.0,
    "negative_prompt": None,
    "use_resolution_binning": False,
    **masks(MASK),
}
ONE_STAGE = sampler("HeliosScheduler", stage_range=[0, 1], stages=1, use_dynamic_shifting=True)
STAGES = sampler("HeliosScheduler", use_dynamic_shifting=True)
CHUNKS = {
    "num_frames": 18,
    "num_latent_frames_per_chunk": 3,
    "history_sizes": [4, 2, 1],
    "guidance_scale": 3.0,
}
SANA_WM = prompts(1, 5, TEXT)
KANDINSKY6 = {
    "prompt_embeds": (5, TEXT),
    "pooled_prompt_embeds": (8,),
    "negative_prompt_embeds": (5, TEXT),
    "negative_pooled_prompt_embeds": (8,),
}

ENTRIES: tuple[Entry, ...] = (
    entry("CosmosTextToWorldPipeline", _cosmos, call(PROMPTS, **GUIDED), EDM, COSMOS),
    entry(
        "CosmosVideoToWorldPipeline",
        lambda: _cosmos(**SEEN),
        call(PROMPTS, image=picture(), **GUIDED),
        EDM,
        COSMOS,
    ),
    entry(
        "Cosmos2VideoToWorldPipeline",
        lambda: _cosmos(**SEEN),
        call(PROMPTS, image=picture(), **GUIDED),
        KARRAS,
        COSMOS2,
    ),
    entry(
        "Cosmos2_5_PredictBasePipeline",
        lambda: _cosmos(**SEEN),
        call(PROMPTS, image=picture(), **GUIDED),
        UNIPC,
        COSMOS2,
    ),
    # Chunks of frames, one denoising loop each; a ControlNet beside the transformer.
    entry(
        "Cosmos2_5_TransferPipeline",
        lambda: _cosmos(**SEEN, controlnet_block_every_n=1, **CONTEXT),
        call(
            PROMPTS,
            controls=[torch.randn(3, 32, 32, generator=generator(i)) for i in range(5)],
            num_frames=5,
            num_frames_per_chunk=3,
            num_ar_conditional_frames=1,
            guidance_scale=3.0,
            negative_prompt=None,
            output_type="pt",
        ),
        UNIPC,
        {**COSMOS2, "controlnet": _cosmos_control},
    ),
    # Text and video are tokens of one stream, and samples are lists.
    entry(
        "Cosmos3OmniPipeline",
        _cosmos3,
        call(
            prompt="1 2 3",
            negative_prompt="4 5",
            num_frames=5,
            guidance_scale=3.0,
            use_system_prompt=False,
            add_resolution_template=False,
            add_duration_template=False,
        ),
        sampler("UniPCMultistepScheduler", prediction_type="flow_prediction", use_flow_sigmas=True),
        {"vae": wan_vae(), "text_tokenizer": _chat, "enable_safety_checker": False},
        refused=NO_SAMPLE,
    ),
    entry("SanaVideoPipeline", _sana, call(PROMPTS, **SANA), FLOW_EULER, {"vae": wan_vae()}),
    entry(
        "SanaImageToVideoPipeline",
        _sana,
        call(PROMPTS, image=torch.rand(1, 3, 32, 32, generator=generator(7)), **SANA),
        FLOW_EULER,
        {"vae": wan_vae()},
    ),
    # Noise levels per frame, and a camera.
    entry(
        "SanaWMPipeline",
        _sana_wm,
        call(
            SANA_WM,
            prompt="",
            image=picture(),
            c2w=np.stack([np.eye(4)] * 5).astype(np.float32),
            intrinsics=[30.0, 30.0, 16.0, 16.0],
            num_frames=5,
            guidance_scale=3.0,
            **masks(MASK),
        ),
        FLOW_EULER,
        {"vae": ltx2_vae},
    ),
    # Chunks of frames, one denoising loop each.
    entry("HeliosPipeline", helios, call(PROMPTS, **CHUNKS), ONE_STAGE, {"vae": wan_vae()}),
    # In each chunk one denoising loop for every stage of a pyramid.
    entry(
        "HeliosPyramidPipeline",
        helios,
        call(PROMPTS, 64, steps=None, **CHUNKS, pyramid_num_inference_steps_list=[3, 3, 3]),
        STAGES,
        {"vae": wan_vae()},
    ),
    # Video and audio; the frame of the picture is written into the latents in every step.
    entry(
        "Kandinsky6TI2VAPipeline",
        _kandinsky6,
        call(KANDINSKY6, image=picture(), num_frames=5, guidance_scale=3.0),
        sampler("FlowMatchEulerDiscreteScheduler", shift=7.0),
        {"vae": hunyuan_vae, "audio_vae": _mel_vae, "vocoder": _vocoder},
        fast=True,
    ),
    # Tiles of the picture, in batches.
    entry(
        "Kandinsky6SRPipeline",
        _kandinsky6_sr,
        call(
            {},
            None,
            video=torch.rand(5, 3, 16, 32, generator=generator(7)),
            resolution_scale=2,
            output_type="pt",
        ),
        sampler("FlowMatchEulerDiscreteScheduler", shift=3.5),
        {"vae": _sr_vae},
    ),
)
