"""Entries: pipelines around UNets, and old denoisers."""

from __future__ import annotations

from tests.zoo import (
    unets_cascades,
    unets_control,
    unets_kandinsky,
    unets_more,
    unets_old,
    unets_sd,
    unets_video,
)
from tests.zoo.entry import Entry

ENTRIES: tuple[Entry, ...] = (
    *unets_sd.ENTRIES,
    *unets_control.ENTRIES,
    *unets_video.ENTRIES,
    *unets_kandinsky.ENTRIES,
    *unets_cascades.ENTRIES,
    *unets_old.ENTRIES,
    *unets_more.ENTRIES,
)

ALL = ("default", "interval", "easycache")
# What fails, and why: entries and methods by cause.
_CAUSES: dict[str, dict[str, tuple[str, ...]]] = {
    "a replay is refused: PNDM has a timestep twice, and the run is taken to begin at the first of both": {
        "StableDiffusionImg2ImgPipeline": ALL
    },
    "a replay is refused: prior and decoder differ in steps, a schedule has one number": dict.fromkeys(
        (
            "KandinskyCombinedPipeline",
            "KandinskyImg2ImgCombinedPipeline",
            "KandinskyInpaintCombinedPipeline",
            "KandinskyV22CombinedPipeline",
            "KandinskyV22Img2ImgCombinedPipeline",
            "KandinskyV22InpaintCombinedPipeline",
        ),
        ("default", "interval"),
    ),
    "a replay is refused: three loops walk parts of one table of timesteps, the trace is of the last": {
        "TextToVideoZeroPipeline": ALL,
        "TextToVideoZeroSDXLPipeline": ALL,
    },
    "a replay is refused: timesteps at which noise is added again count as evaluations, no call comes": {
        "RePaintPipeline": ("default", "interval")
    },
    "a replay is refused: a UNet that is never called is taken for a denoiser, and is not in the trace": {
        "VersatileDiffusionTextToImagePipeline": ALL
    },
    "the sampler steps once for each view, which counts as an evaluation; more than it has are an error": {
        "StableDiffusionPanoramaPipeline (views)": (*ALL, "fbcache"),
        "StableDiffusionPanoramaPipeline (views in batches)": (*ALL, "fbcache"),
    },
    "the pipeline reads attention maps that processors store; a predicted block stores none": {
        "StableDiffusionSAGPipeline": ALL,
        "StableDiffusionPix2PixZeroPipeline": ALL,
        "LEditsPPPipelineStableDiffusion": ("default", "interval"),
    },
    "nothing is said of a run without predictions: `step` of the sampler is not called, no run ends": {
        "StableDiffusionParadigmsPipeline": ALL
    },
    "nothing is said of a run without predictions: it has less evaluations than timesteps": {
        "RePaintPipeline": ("easycache",)
    },
    "what is said of a run without predictions comes with the next: `maybe_free_model_hooks` is not called": {
        "StableDiffusionXLControlNetInpaintPipeline": ("easycache",),
        "StableDiffusionXLControlNetUnionInpaintPipeline": ("easycache",),
        "StableDiffusionXLAdapterPipeline": ("easycache",),
        "StableDiffusionXLPAGInpaintPipeline": ("easycache",),
        "ScoreSdeVePipeline": ("easycache",),
        "DanceDiffusionPipeline": ("easycache",),
        "VQDiffusionPipeline": ("fbcache",),
        # That of the pipelines inside is; the prior is not cached at all, its sampler is not watched.
        "StableCascadeCombinedPipeline": ("easycache",),
        "WuerstchenCombinedPipeline": ("easycache",),
    },
    "the first run differs: it goes over to the whole model after its first evaluation": {
        "UniDiffuserPipeline": ("default", "interval")
    },
}
KNOWN: dict[tuple[str, str], str] = {
    (name, method): cause
    for cause, names in _CAUSES.items()
    for name, methods in names.items()
    for method in methods
}
