"""Entries: sounds, several UNets in one pipeline, transformers for codes, and other rare ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from tests.builders import generator, model, sampler
from tests.pipelines import NOISE_SAMPLERS, sd_model
from tests.zoo.entry import STEPS, Entry
from tests.zoo.unets_parts import (
    SIZED,
    TEXTS,
    arguments,
    assemble,
    beside,
    clip_images,
    clip_text,
    clip_vision,
    drawn,
    entry,
    home,
    latent,
    picture,
    seeded,
    seeded_module,
    unet,
    vae,
    words,
)

DDIM, PNDM = NOISE_SAMPLERS["ddim"], NOISE_SAMPLERS["pndm"]
SD = {"unet": sd_model, "scheduler": DDIM, "vae": vae}
TALKING = {**SD, "text_encoder": clip_text(), "tokenizer": words()}
SAID = {"prompt": "a cat", "guidance_scale": 3.0}


class Speaker(nn.Module):
    """A text encoder with the interface of a language model."""

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 12)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return SimpleNamespace(hidden_states=[self.embedding(input_ids)])


# Sounds -------------------------------------------------------------------------------------------


def vocoder() -> Any:
    """What makes waves of spectrograms; the latents need no more than its configuration."""
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    config = SpeechT5HifiGanConfig(
        model_in_dim=8,
        sampling_rate=16000,
        upsample_initial_channel=16,
        upsample_rates=[2, 2],
        upsample_kernel_sizes=[4, 4],
        resblock_kernel_sizes=[3, 7],
        resblock_dilation_sizes=[[1, 3, 5], [1, 3, 5]],
        normalize_before=False,
    )
    return seeded_module(lambda: SpeechT5HifiGan(config))


def sound_vae() -> Any:
    """An autoencoder of spectrograms."""
    return vae(in_channels=1, out_channels=1)


sound_unet = model(
    "UNet2DConditionModel",
    sample_size=8,
    in_channels=4,
    out_channels=4,
    layers_per_block=1,
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=(8, 16),
    class_embed_type="simple_projection",
    projection_class_embeddings_input_dim=12,
    class_embeddings_concat=True,
    attention_head_dim=4,
    norm_num_groups=4,
)
audioldm2_unet = model(
    "AudioLDM2UNet2DConditionModel",
    sample_size=8,
    in_channels=4,
    out_channels=4,
    layers_per_block=1,
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=([None, 12, 12], [None, 12, 12]),
    attention_head_dim=4,
    norm_num_groups=4,
)
# 16 frames of a spectrogram, each 4 samples.
LENGTH = {"audio_length_in_s": 16 * 4 / 16000, "guidance_scale": 3.0}


def speaker() -> Any:
    """A text encoder that is there only because its dtype is asked."""
    return seeded_module(Speaker)


def t5() -> Any:
    """The same, whose kind is asked too."""
    made = speaker()
    made.config = SimpleNamespace(model_type="t5")
    return made


def clap() -> Any:
    """The same, as a part of a model of text and sound."""
    made = speaker()
    made.text_model = speaker()
    return made


SOUND = {"unet": sound_unet, "scheduler": DDIM, "vae": sound_vae, "vocoder": vocoder}
MASK = torch.ones(1, 5, dtype=torch.long)
SOUNDS = (
    unet(
        "AudioLDMPipeline",
        {**SOUND, "text_encoder": speaker},
        latent(**LENGTH, prompt_embeds=drawn(1, 12), negative_prompt_embeds=drawn(2, 12)),
    ),
    unet(
        "MusicLDMPipeline",
        {**SOUND, "text_encoder": clap},
        latent(**LENGTH, prompt_embeds=drawn(1, 12), negative_prompt_embeds=drawn(2, 12)),
    ),
    unet(
        "AudioLDM2Pipeline",
        {**SOUND, "unet": audioldm2_unet, "text_encoder_2": t5, "language_model": speaker},
        latent(
            **{**TEXTS, **LENGTH},
            generated_prompt_embeds=drawn(3, 3, 12),
            negative_generated_prompt_embeds=drawn(4, 3, 12),
            attention_mask=MASK,
            negative_attention_mask=MASK,
        ),
    ),
    unet(
        "DanceDiffusionPipeline",
        {
            "unet": model(
                "UNet1DModel",
                block_out_channels=(32, 32, 64),
                extra_in_channels=64,
                sample_size=128,
                sample_rate=16000,
                in_channels=2,
                out_channels=2,
                flip_sin_to_cos=True,
                use_timestep_embedding=False,
                time_embedding_type="fourier",
                mid_block_type="UNetMidBlock1D",
                down_block_types=("DownBlock1DNoSkip", "DownBlock1D", "AttnDownBlock1D"),
                up_block_types=("AttnUpBlock1D", "UpBlock1D", "UpBlock1DNoSkip"),
            ),
            "scheduler": sampler("IPNDMScheduler"),
        },
        arguments(num_inference_steps=STEPS, generator=seeded(1)),
    ),
)

# Pictures that stand in the text's place ----------------------------------------------------------


def example_encoder() -> Any:
    """Paint by Example's encoder of the example."""
    from transformers import CLIPVisionConfig

    config = CLIPVisionConfig(
        hidden_size=12,
        intermediate_size=12,
        projection_dim=12,
        num_hidden_layers=5,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    return seeded_module(lambda: home("PaintByExamplePipeline").PaintByExampleImageEncoder(config))


text_unet = beside(
    "VersatileDiffusionDualGuidedPipeline",
    "UNetFlatConditionModel",
    sample_size=8,
    in_channels=4,
    out_channels=4,
    layers_per_block=1,
    block_out_channels=(8, 16),
    down_block_types=("CrossAttnDownBlockFlat", "DownBlockFlat"),
    up_block_types=("UpBlockFlat", "CrossAttnUpBlockFlat"),
    cross_attention_dim=12,
    attention_head_dim=4,
    norm_num_groups=4,
)
VERSATILE = {
    "image_unet": sd_model,
    "text_unet": text_unet,
    "scheduler": DDIM,
    "vae": vae,
    "text_encoder": clip_text(project=12),
    "tokenizer": words(),
    "image_encoder": clip_vision(size=16),
    "image_feature_extractor": clip_images(16),
}


def some(parts: dict[str, Any], *without: str) -> dict[str, Any]:
    """The parts without these."""
    return {name: part for name, part in parts.items() if name not in without}


RARE = (
    unet(
        "PaintByExamplePipeline",
        {
            **SD,
            "unet": lambda: sd_model(in_channels=9),
            "image_encoder": example_encoder,
            "feature_extractor": clip_images(),
        },
        latent(
            image=picture(),
            mask_image=picture(mode="L"),
            example_image=picture(8),
            guidance_scale=3.0,
            **SIZED,
        ),
    ),
    unet(
        "VersatileDiffusionTextToImagePipeline",
        some(VERSATILE, "image_encoder", "image_feature_extractor"),
        latent(**SAID, **SIZED),
    ),
    unet(
        "VersatileDiffusionImageVariationPipeline",
        some(VERSATILE, "text_unet", "text_encoder", "tokenizer"),
        latent(image=picture(), guidance_scale=3.0, **SIZED),
    ),
    unet(
        "diffusers.pipelines.deprecated.stable_diffusion_safe.pipeline_stable_diffusion_safe:StableDiffusionPipelineSafe",
        {**TALKING, "safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
        latent(**SAID, **SIZED, sld_warmup_steps=1),
    ),
    unet(
        "MarigoldIntrinsicsPipeline",
        {
            **TALKING,
            "unet": lambda: sd_model(in_channels=12, out_channels=8),
            "target_properties": {"target_names": ["albedo", "shading"], "albedo": {}, "shading": {}},
        },
        arguments(image=picture(), num_inference_steps=STEPS, processing_resolution=0, generator=seeded(1)),
    ),
)

# Boxes in the picture -----------------------------------------------------------------------------


def _gated(unet: Any) -> None:
    """Open the gates of the layers that read the boxes."""
    for name, parameter in unet.named_parameters():
        if name.endswith(("alpha_attn", "alpha_dense")):
            parameter.fill_(0.5)


def gligen(kind: str) -> Any:
    """What makes the UNet that reads boxes."""

    def make() -> Any:
        made = sd_model(attention_type=kind)
        _gated(made)
        return made

    return make


def image_project() -> Any:
    """GLIGEN's projection of pictures."""
    from diffusers.pipelines.stable_diffusion import CLIPImageProjection

    return seeded_module(lambda: CLIPImageProjection(hidden_size=12))


BOXES = {"gligen_phrases": lambda: ["a dog"], "gligen_boxes": lambda: [[0.1, 0.2, 0.6, 0.7]]}
GLIGENS = (
    unet(
        "StableDiffusionGLIGENPipeline",
        {**TALKING, "unet": gligen("gated")},
        latent(**SAID, **SIZED, **BOXES, gligen_scheduled_sampling_beta=0.5),
    ),
    unet(
        "StableDiffusionGLIGENTextImagePipeline",
        {
            **TALKING,
            "unet": gligen("gated-text-image"),
            "processor": clip_images(),
            "image_encoder": clip_vision(),
            "image_project": image_project,
        },
        latent(
            **SAID, **SIZED, **BOXES, gligen_images=lambda: [picture()()], gligen_scheduled_sampling_beta=0.5
        ),
    ),
)

# Transformers -------------------------------------------------------------------------------------


def _louder(transformer: Any) -> None:
    """With fresh weights the codes hardly depend on anything."""
    for seed, parameter in enumerate(transformer.parameters()):
        parameter.copy_(torch.randn(parameter.shape, generator=generator(seed)) * 0.5)


codes = model(
    "Transformer2DModel",
    _louder,
    num_attention_heads=2,
    attention_head_dim=4,
    num_layers=2,
    cross_attention_dim=12,
    attention_bias=True,
    num_vector_embeds=13,
    num_embeds_ada_norm=100,
    norm_num_groups=4,
    sample_size=8,
    activation_fn="geglu-approximate",
)


def _no_prompt() -> Any:
    """VQ-Diffusion's place for a learned empty prompt."""
    return home("VQDiffusionPipeline").LearnedClassifierFreeSamplingEmbeddings(learnable=False).eval()


uvit = beside(
    "UniDiffuserPipeline",
    "UniDiffuserModel",
    text_dim=12,
    clip_img_dim=12,
    num_text_tokens=5,
    num_attention_heads=2,
    attention_head_dim=6,
    in_channels=4,
    out_channels=4,
    num_layers=5,
    dropout=0.0,
    norm_num_groups=4,
    attention_bias=False,
    sample_size=8,
    patch_size=2,
    activation_fn="gelu",
    num_embeds_ada_norm=1000,
    norm_type="layer_norm",
    block_type="unidiffuser",
    use_timestep_embedding=False,
    norm_elementwise_affine=True,
    ff_final_dropout=False,
)
text_decoder = beside(
    "UniDiffuserPipeline",
    "UniDiffuserTextDecoder",
    prefix_length=5,
    prefix_inner_dim=12,
    prefix_hidden_dim=12,
    vocab_size=40,
    n_positions=32,
    n_embd=12,
    n_layer=1,
    n_head=2,
)
TRANSFORMERS = (
    entry(
        "VQDiffusionPipeline",
        {
            "vqvae": model(
                "VQModel",
                block_out_channels=(32, 32),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                latent_channels=4,
                layers_per_block=1,
                num_vq_embeddings=13,
                vq_embed_dim=4,
            ),
            "text_encoder": clip_text(),
            "tokenizer": words(),
            "transformer": codes,
            "scheduler": sampler("VQDiffusionScheduler", num_vec_classes=13),
            "learned_classifier_free_sampling_embeddings": _no_prompt,
        },
        arguments(**SAID, num_inference_steps=8, generator=seeded(1), output_type="np"),
        refused={"easycache": "codec 'delta'"},
    ),
    entry(
        "UniDiffuserPipeline",
        {
            "vae": vae,
            "text_encoder": clip_text(),
            "image_encoder": clip_vision(),
            "clip_image_processor": clip_images(),
            "clip_tokenizer": words(),
            "text_decoder": text_decoder,
            "text_tokenizer": words(),
            "unet": uvit,
            "scheduler": DDIM,
        },
        latent(**SAID, **SIZED),
    ),
)

# Others -------------------------------------------------------------------------------------------


def edited(name: str) -> Any:
    """What makes a pipeline of LEDITS++ that has walked up to the noise already."""

    def make() -> Any:
        pipe = assemble(
            name,
            {
                **TALKING,
                "unet": lambda: sd_model(
                    block_out_channels=(8, 8, 16),
                    down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
                    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
                ),
                "scheduler": sampler(
                    "DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++", solver_order=2
                ),
                "requires_safety_checker": False,
            },
        )
        pipe.set_progress_bar_config(disable=True)
        with torch.no_grad():
            pipe.invert(image=picture(32)(), num_inversion_steps=8, skip=0.1, generator=generator(1))
        return pipe

    return make


OTHERS = (
    unet(
        "LDMTextToImagePipeline",
        {
            "unet": sd_model,
            "scheduler": DDIM,
            "vqvae": vae,
            "bert": clip_text(tokens=77),
            "tokenizer": words(77),
        },
        latent(**{**SAID, **SIZED, "output_type": "np"}),
    ),
    Entry(
        "LEditsPPPipelineStableDiffusion",
        edited("LEditsPPPipelineStableDiffusion"),
        arguments(
            editing_prompt=lambda: ["a dog"], edit_warmup_steps=1, output_type="latent", generator=seeded(1)
        ),
        refused={"fbcache": "has 0 block"},
    ),
)

ENTRIES: tuple[Entry, ...] = (*SOUNDS, *RARE, *GLIGENS, *TRANSFORMERS, *OTHERS)
