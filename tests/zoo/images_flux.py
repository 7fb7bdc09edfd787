"""Entries: Flux and the pipelines around its denoiser."""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.builders import Call, model, noise_image
from tests.families.mmdit import FLUX2, flux_controlnet
from tests.pipelines import flux_inputs, flux_model, flux_true_cfg
from tests.zoo.entry import Entry
from tests.zoo.images_parts import MORE_STEPS, entry, half_mask, kl_vae

VAE = kl_vae(16)
IMG2IMG: Call = {"strength": 0.75, "num_inference_steps": MORE_STEPS}


def _flux(**over: Any) -> nn.Module:
    return flux_model(0, **over)


def _control() -> nn.Module:
    # The control image's latents lie beside the noisy ones.
    return _flux(in_channels=128, out_channels=64)


def _fill() -> nn.Module:
    # Beside the latents are the masked image's, and 8 x 8 pixels of the mask of each of four latents.
    return _flux(in_channels=64 + 64 + 256, out_channels=64)


def _controlnet() -> nn.Module:
    return flux_controlnet(_flux())


def text(**more: Any) -> Call:
    """A prompt's embeddings and the size of the picture."""
    return {**flux_inputs(1), **more}


def _flux2(**over: Any) -> nn.Module:
    return FLUX2.model(0)


FLUX2_VAE = model(
    "AutoencoderKLFlux2",
    block_out_channels=(4,) * 4,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=1,
    latent_channels=4,
    norm_num_groups=1,
)


def _flux2_text(guided: bool = False, **more: Any) -> Call:
    call = {**FLUX2.inputs(1), **more}
    return {**call, "negative_prompt_embeds": FLUX2.inputs(2)["prompt_embeds"]} if guided else call


ENTRIES: tuple[Entry, ...] = (
    entry("FluxPipeline", _flux, lambda: text(**flux_true_cfg())),
    entry("FluxImg2ImgPipeline", _flux, lambda: text(image=noise_image(), **IMG2IMG), vae=VAE),
    entry(
        "FluxInpaintPipeline",
        _flux,
        lambda: text(image=noise_image(), mask_image=half_mask(), **IMG2IMG),
        vae=VAE,
    ),
    entry("FluxFillPipeline", _fill, lambda: text(image=noise_image(), mask_image=half_mask()), vae=VAE),
    entry("FluxControlPipeline", _control, lambda: text(control_image=noise_image()), vae=VAE),
    entry(
        "FluxControlImg2ImgPipeline",
        _control,
        lambda: text(image=noise_image(), control_image=noise_image(1), **IMG2IMG),
        vae=VAE,
    ),
    entry(
        "FluxControlInpaintPipeline",
        _control,
        lambda: text(image=noise_image(), control_image=noise_image(1), mask_image=half_mask(), **IMG2IMG),
        vae=VAE,
    ),
    entry(
        "FluxControlNetPipeline",
        _flux,
        lambda: text(control_image=noise_image()),
        vae=VAE,
        controlnet=_controlnet,
    ),
    entry(
        "FluxControlNetImg2ImgPipeline",
        _flux,
        lambda: text(image=noise_image(), control_image=noise_image(1), **IMG2IMG),
        vae=VAE,
        controlnet=_controlnet,
    ),
    entry(
        "FluxControlNetInpaintPipeline",
        _flux,
        lambda: text(image=noise_image(), control_image=noise_image(1), mask_image=half_mask(), **IMG2IMG),
        vae=VAE,
        controlnet=_controlnet,
    ),
    entry(
        "FluxKontextPipeline",
        _flux,
        lambda: text(image=noise_image(), max_area=64 * 64, _auto_resize=False),
        vae=VAE,
    ),
    entry(
        "FluxKontextInpaintPipeline",
        _flux,
        lambda: text(
            image=noise_image(),
            mask_image=half_mask(),
            max_area=64 * 64,
            _auto_resize=False,
            **IMG2IMG,
        ),
        vae=VAE,
    ),
    entry("Flux2Pipeline", _flux2, lambda: _flux2_text(image=noise_image()), vae=FLUX2_VAE),
    entry(
        "Flux2KleinPipeline",
        _flux2,
        lambda: _flux2_text(guided=True, image=noise_image()),
        vae=FLUX2_VAE,
    ),
    entry(
        "Flux2KleinInpaintPipeline",
        _flux2,
        lambda: _flux2_text(guided=True, image=noise_image(), mask_image=half_mask(), **IMG2IMG),
        vae=FLUX2_VAE,
    ),
    # The first step stores keys and values of the reference image, which the later steps read.
    entry("Flux2KleinKVPipeline", _flux2, lambda: _flux2_text(image=noise_image()), vae=FLUX2_VAE),
)
