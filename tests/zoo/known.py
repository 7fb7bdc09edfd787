"""What still fails in the zoo, and why: entries and methods by cause."""

from __future__ import annotations

EVERY = ("default", "interval", "fbcache", "easycache")
CAUSES: dict[str, dict[str, tuple[str, ...]]] = {
    "said when the next run opens: `step` of the sampler is not called, nor anything at the end": {
        "ScoreSdeVePipeline": ("easycache",),
    },
    "the first call differs: it leaves out the last entry of its table, which only its end shows": {
        "LTXI2VLongMultiPromptPipeline": ("default", "easycache")
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
