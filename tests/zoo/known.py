"""What still fails in the zoo, and why: entries and methods by cause."""

from __future__ import annotations

STEADY = ("default", "interval", "easycache")
EVERY = (*STEADY, "fbcache")
CAUSES: dict[str, dict[str, tuple[str, ...]]] = {
    "a replay is refused: three loops walk parts of one table of timesteps": {
        "TextToVideoZeroPipeline": STEADY,
        "TextToVideoZeroSDXLPipeline": STEADY,
    },
    "a replay is refused: a UNet that is never called is taken for a denoiser, and is not in the trace": {
        "VersatileDiffusionTextToImagePipeline": STEADY
    },
    "nothing is said of a run without predictions: `step` of the sampler is not called, no run ends": {
        "StableDiffusionParadigmsPipeline": STEADY
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
    "the first call differs: it leaves out the last entry of its table, which only its end shows": {
        "LTXI2VLongMultiPromptPipeline": ("default", "easycache")
    },
    "the timestep's name, vision_timesteps, is not known: the first run differs from the others": {
        "Cosmos3OmniPipeline": ("default", "interval", "fbcache")
    },
    "several loops in one call of a modular pipeline, which does not say when it begins or ends": {
        "HeliosModularPipeline": ("fbcache",),
        "HeliosPyramidModularPipeline": ("fbcache",),
        "HeliosPyramidDistilledModularPipeline": EVERY,
    },
}
# (class, method) -> the cause.
KNOWN: dict[tuple[str, str], str] = {
    (name, method): cause
    for cause, names in CAUSES.items()
    for name, methods in names.items()
    for method in methods
}
