"""Entries: images."""

from __future__ import annotations

from dataclasses import replace

from tests.zoo import images_flux, images_newer, images_others, images_qwen, images_sd3, images_single
from tests.zoo.entry import Entry


def _classes(text: str) -> set[str]:
    return {f"{name}Pipeline" for name in text.split()}


# Their output is not of their first argument's shape, and EasyCache remembers the difference of the two.
_OTHER_SHAPE = _classes("""
    FluxFill FluxControl FluxControlImg2Img FluxControlInpaint Flux2KleinKV CogView4Control QwenImage21
    PixArtAlpha PixArtSigma PixArtSigmaPAG Lumina DiT HunyuanDiT HunyuanDiTPAG HunyuanDiTControlNet
    ZImage ZImageImg2Img ZImageInpaint ZImageOmni ZImageControlNet ZImageControlNetInpaint
    Kandinsky5I2I HunyuanImageRefiner VisualCloze VisualClozeGeneration
    Amused AmusedImg2Img AmusedInpaint
""")
_UNETS = _classes("DreamLite DreamLiteMobile")
# One of each kind of trap: true guidance, a late start, a ControlNet, stored keys and values, skipped layers,
# perturbed attention, guidance that stops, cache contexts, lists, two denoisers, a guider, latents that are
# written into, a denoiser that is found by watching, calls before the loop.
_FAST = _classes("""
    Flux FluxImg2Img FluxControlNet Flux2KleinKV StableDiffusion3 PixArtSigmaPAG Lumina2 QwenImage ZImage
    Ideogram4 HunyuanImage Kandinsky5I2I Amused
""") | {"GlmImagePipeline (edit)"}


def _refused(name: str) -> dict[str, str]:
    if name in _UNETS:
        return {"fbcache": "has 0 block"}
    return {"easycache": "needs an output of the input's shape"} if name in _OTHER_SHAPE else {}


ENTRIES: tuple[Entry, ...] = tuple(
    replace(entry, refused=_refused(entry.name), fast=entry.name in _FAST)
    for entry in (
        *images_flux.ENTRIES,
        *images_sd3.ENTRIES,
        *images_single.ENTRIES,
        *images_qwen.ENTRIES,
        *images_newer.ENTRIES,
        *images_others.ENTRIES,
    )
)
