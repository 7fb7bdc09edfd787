"""Entries: LTX, with video alone, and LTX2, with video and audio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.builders import Call, embeds, generator, masks, model, pipeline, prompts, sampler
from tests.families.video import LTX, LTX2, LTX_I2V, MASK, SHIFTED, ltx2_model
from tests.zoo.entry import STEPS, Entry
from tests.zoo.videos_parts import TEXT, call, entry, frames, of, picture, spread, t5, words

# The parts ----------------------------------------------------------------------------------------

ltx_vae = model(
    "AutoencoderKLLTXVideo",
    latent_channels=4,
    block_out_channels=(4, 4, 4, 4),
    decoder_block_out_channels=(4, 4, 4, 4),
    layers_per_block=(1,) * 5,
    decoder_layers_per_block=(1,) * 5,
    patch_size=1,
)
ltx2_vae = model(
    "AutoencoderKLLTX2Video",
    latent_channels=4,
    block_out_channels=(8,),
    down_block_types=("LTX2VideoDownBlock3D",),
    decoder_block_out_channels=(8,),
    layers_per_block=(1,),
    decoder_layers_per_block=(1, 1),
    spatio_temporal_scaling=(True,),
    decoder_spatio_temporal_scaling=(True,),
    decoder_inject_noise=(False, False),
    downsample_type=("spatial",),
    upsample_type=("spatiotemporal",),
    upsample_residual=(False,),
    upsample_factor=(1,),
)
ANCESTRAL = sampler("LTXEulerAncestralRFScheduler", eta=0.5)
FLOW = sampler("FlowMatchEulerDiscreteScheduler")


def _ltx() -> nn.Module:
    return LTX.model(0)


def _keyframes_model() -> nn.Module:
    """An LTX2 that marks the tokens of key frames."""
    made: nn.Module = ltx2_model(0, vae_scale_factors=(2, 8, 8), use_keyframes_abs_pos_embedding=True)
    spread()(made)
    return made


def _upsampler() -> nn.Module:
    """Makes the latents of a video twice as long."""
    from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel

    torch.manual_seed(0)
    sizes = {"in_channels": 4, "mid_channels": 32, "num_blocks_per_stage": 1}
    return LTX2LatentUpsamplerModel(**sizes, dims=3, spatial_upsample=False, temporal_upsample=True).eval()


def ltx2(
    name: str, inputs: Callable[[], Call], denoiser: Callable[[], Any] | None = None, **flags: Any
) -> Entry:
    """An entry of LTX2 whose VAE really encodes.

    Args:
        name: class name in diffusers.
        inputs: makes the arguments of a call.
        denoiser: builds the transformer, the usual one by default.
        flags: `sampler`, `parts` and those of `Entry`.
    """
    sampler, parts = flags.pop("sampler", SHIFTED), flags.pop("parts", {})

    def build() -> Any:
        twin = LTX2.build()
        made = {"audio_vae": twin.audio_vae, "connectors": twin.connectors, "vae": ltx2_vae, **parts}
        return pipeline(name, **made)(denoiser() if denoiser else twin.transformer, sampler())

    return Entry(name, build, inputs, **flags)


# Their arguments ----------------------------------------------------------------------------------

PROMPTS = prompts(5, TEXT)
# Two layers of the text encoder, side by side.
PROMPTS2 = prompts(5, 2 * TEXT)
PROMPT2 = {"prompt_embeds": (5, 2 * TEXT)}
# Both prompts in one batch, and no other branches.
ONE_BATCH = {
    "num_frames": 5,
    "guidance_scale": 3.0,
    "stg_scale": 0.0,
    "modality_scale": 1.0,
    "audio_guidance_scale": 3.0,
    "audio_stg_scale": 0.0,
    "audio_modality_scale": 1.0,
    "spatio_temporal_guidance_blocks": None,
    **masks(MASK),
}
SIGMAS = torch.linspace(1, 1 / STEPS, STEPS).tolist()


def _with(inputs: Callable[[], Call], **more: Callable[[], Any]) -> Callable[[], Call]:
    """The arguments, and some that are made anew for each call."""
    return lambda: {**inputs(), **{name: value() for name, value in more.items()}}


def _condition() -> list[Any]:
    """A picture as the first frame."""
    from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition

    return [LTX2VideoCondition(frames=picture(), index=0, strength=1.0, crf=0)]


def _reference() -> list[Any]:
    """A video to follow."""
    from diffusers.pipelines.ltx2.pipeline_ltx2_ic_lora import LTX2ReferenceCondition

    return [LTX2ReferenceCondition(frames=frames(5), strength=1.0)]


def _hdr_reference() -> Any:
    """A picture to follow, as a tensor."""
    from diffusers.pipelines.ltx2 import LTX2HDRReferenceCondition

    return LTX2HDRReferenceCondition(frames=torch.rand(1, 3, 32, 32, generator=generator(7)), strength=1.0)


ENTRIES: tuple[Entry, ...] = (
    of(LTX, "LTXPipeline"),
    of(LTX_I2V, "LTXImageToVideoPipeline"),
    # Noise is added to the condition before every evaluation; steps are taken per token.
    entry(
        "LTXConditionPipeline",
        _ltx,
        call(PROMPTS, image=picture(), frame_index=0, num_frames=9, guidance_scale=3.0, **masks(MASK)),
        FLOW,
        {"vae": ltx_vae},
        fast=True,
    ),
    # Windows over the frames, one denoising loop and one prompt each.
    entry(
        "LTXI2VLongMultiPromptPipeline",
        _ltx,
        call(
            prompt="1 2 3 | 4 5 6",
            negative_prompt="7",
            cond_image=picture(),
            num_frames=25,
            temporal_tile_size=16,
            temporal_overlap=8,
            guidance_scale=3.0,
            max_sequence_length=5,
        ),
        FLOW,
        {"vae": ltx_vae, "tokenizer": words, "text_encoder": t5},
    ),
    # Three calls in each evaluation.
    of(LTX2, "LTX2Pipeline", "three"),
    ltx2("LTX2ImageToVideoPipeline", call(PROMPTS2, image=picture(), image_crf=0, **ONE_BATCH), fast=True),
    ltx2("LTX2ConditionPipeline", _with(call(PROMPTS2, **ONE_BATCH), conditions=_condition)),
    ltx2("LTX2InContextPipeline", _with(call(PROMPTS2, **ONE_BATCH), reference_conditions=_reference)),
    ltx2(
        "LTX2HDRPipeline",
        _with(
            call(PROMPT2, num_frames=5, prompt_attention_mask=MASK),
            reference_conditions=_hdr_reference,
        ),
    ),
    ltx2(
        "LTX2DFRPipeline",
        call(PROMPT2, steps=None, num_frames=9, sigmas=SIGMAS, prompt_attention_mask=MASK),
        _keyframes_model,
        sampler=FLOW,
    ),
    # Two tiles of frames, one denoising loop each, on a transformer that other tiles use too.
    ltx2(
        "LTX2DFRTemporalRefinePipeline",
        call(
            PROMPT2,
            steps=None,
            latents=embeds(11, 4, 9, 4, 4),
            keyframes_latents=embeds(12, 4, 2, 4, 4),
            keyframe_positions=[8, 16],
            audio_latents=embeds(13, 2, 16, 2),
            num_frames=17,
            sigmas=SIGMAS,
            prompt_attention_mask=MASK,
        ),
        _keyframes_model,
        sampler=ANCESTRAL,
        parts={"temporal_latent_upsampler": _upsampler},
    ),
)
