"""Entries: audio transformers: Stable Audio, Stable Audio 3, ACE-Step, LongCat."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.builders import generator, model, sampler
from tests.families.single import STABLE_AUDIO
from tests.pipelines import FLOW_EULER
from tests.zoo.entry import Entry
from tests.zoo.videos_parts import TEXT, call, entry, of, spread, t5, words

# The models ---------------------------------------------------------------------------------------

_stable_audio3 = model(
    "StableAudio3DiTModel",
    then=spread(),
    io_channels=8,
    patch_size=1,
    embed_dim=32,
    depth=3,
    num_heads=4,
    cond_token_dim=TEXT,
    global_cond_dim=TEXT,
    local_add_cond_dim=9,
    timestep_features_dim=16,
    ff_mult=2,
    num_memory_tokens=3,
    use_differential_attention=False,
)
ACE_SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "sliding_window": 16,
}
# Noise, the source and the mask of what is to change, 8 channels each.
_ace = model(
    "AceStepTransformer1DModel",
    **ACE_SIZES,
    num_hidden_layers=3,
    in_channels=24,
    audio_acoustic_hidden_dim=8,
    patch_size=2,
)
_longcat = model(
    "LongCatAudioDiTTransformer",
    then=spread(),
    dit_dim=16,
    dit_depth=3,
    dit_heads=2,
    dit_text_dim=TEXT,
    latent_dim=8,
    text_conv=False,
)

# The other parts ----------------------------------------------------------------------------------


def _quiet(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A part whose model uses torch's older weight norm, which torch warns of."""

    def make() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return build()

    return make


_same = model(
    "AutoencoderSAME",
    audio_channels=2,
    patch_size=2,
    encoder_channels=8,
    encoder_c_mults=(2,),
    encoder_strides=(2,),
    encoder_transformer_depths=(1,),
    latent_dim=8,
    use_differential_attention=False,
    dim_heads=4,
    ff_mult=2,
    sampling_rate=16,
)
_oobleck = model(
    "AutoencoderOobleck",
    encoder_hidden_size=6,
    downsampling_ratios=[1, 2],
    decoder_channels=3,
    decoder_input_channels=8,
    channel_multiples=[2, 4],
    sampling_rate=32,
)
_longcat_vae = model(
    "LongCatAudioDiTVae",
    channels=4,
    c_mults=[1, 2],
    strides=[2],
    latent_dim=8,
    encoder_latent_dim=16,
    downsampling_ratio=2,
    sample_rate=16,
)
_ace_conditions = model(
    "AceStepConditionEncoder",
    **ACE_SIZES,
    text_hidden_dim=TEXT,
    timbre_hidden_dim=8,
    num_lyric_encoder_hidden_layers=1,
    num_timbre_encoder_hidden_layers=1,
)


def _durations() -> nn.Module:
    """Embeds seconds."""
    from diffusers import StableAudio3DurationEmbedder

    torch.manual_seed(0)
    return StableAudio3DurationEmbedder(output_dim=TEXT, fourier_dim=16).eval()


def _qwen() -> nn.Module:
    """A language model for the tokenizer `words`."""
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 6}
    sizes = {"hidden_size": TEXT, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 64}
    return Qwen3Model(Qwen3Config(**sizes, **heads)).eval()


# Their arguments ----------------------------------------------------------------------------------

MASK = torch.ones(1, 5, dtype=torch.long)
WAVE = torch.rand(1, 2, 32, generator=generator(7)) * 2 - 1
AUDIO3 = {"vae": _quiet(_same), "duration_embedder": _durations}
PROMPT3 = {"prompt_embeds": (5, TEXT)}
ACE = {
    "vae": _quiet(_oobleck),
    "text_encoder": _qwen,
    "tokenizer": words,
    "condition_encoder": _ace_conditions,
}


def _audio3(**more: Any) -> Callable[[], dict[str, Any]]:
    """Arguments of Stable Audio 3: two seconds."""
    return call(PROMPT3, None, encoder_attention_mask=MASK, duration=2.0, **more)


ENTRIES: tuple[Entry, ...] = (
    of(STABLE_AUDIO, "StableAudioPipeline"),
    entry(
        "StableAudio3Pipeline",
        _stable_audio3,
        _audio3(
            guidance_scale=3.0,
            negative_prompt_embeds=torch.zeros(1, 5, TEXT),
            negative_encoder_attention_mask=MASK,
        ),
        FLOW_EULER,
        AUDIO3,
    ),
    entry(
        "StableAudio3InpaintPipeline",
        _stable_audio3,
        _audio3(audio=WAVE, mask_start_seconds=0.5, mask_end_seconds=1.5),
        FLOW_EULER,
        AUDIO3,
    ),
    # Its sampler draws noise in every step.
    entry(
        "StableAudio3AudioToAudioPipeline",
        _stable_audio3,
        _audio3(audio=WAVE, init_noise_level=0.8),
        sampler("FlowMatchEulerDiscreteScheduler", stochastic_sampling=True),
        AUDIO3,
    ),
    # Guidance, in one batch, in a part of the steps only.
    entry(
        "AceStepPipeline",
        _ace,
        call(
            {},
            None,
            prompt="1 2 3",
            lyrics="4 5",
            audio_duration=1.0,
            guidance_scale=3.0,
            cfg_interval_start=0.1,
            cfg_interval_end=0.6,
            shift=1.0,
        ),
        sampler("FlowMatchEulerDiscreteScheduler", num_train_timesteps=1, shift=1.0),
        ACE,
    ),
    # Its timesteps rise, and it tells its two calls apart by nothing but the text.
    entry(
        "LongCatAudioDiTPipeline",
        _longcat,
        call({}, None, prompt=["1 2 3"], negative_prompt="4 5", audio_duration_s=1.0, guidance_scale=3.0),
        sampler("FlowMatchEulerDiscreteScheduler", shift=1.0, invert_sigmas=True),
        {"vae": _quiet(_longcat_vae), "text_encoder": t5, "tokenizer": words},
        fast=True,
    ),
)
