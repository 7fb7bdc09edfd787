"""Entries: images."""

from __future__ import annotations

from dataclasses import replace

from tests.zoo import images_flux, images_newer, images_others, images_qwen, images_sd3, images_single
from tests.zoo.entry import Entry


def _classes(text: str) -> set[str]:
    return {f"{name}Pipeline" for name in text.split()}


# Their first argument is no sample: tokens as numbers, or noise levels.
_NO_SAMPLE = _classes("ZImageOmni Amused AmusedImg2Img AmusedInpaint")
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
    return {"easycache": "needs an output of the input's channels"} if name in _NO_SAMPLE else {}


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
