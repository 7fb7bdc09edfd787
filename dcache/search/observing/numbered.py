"""Runs that are computed completely, with their evaluations numbered: what observers look at."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import dcache
from dcache.search.observing.passes import MODEL


def numbered(pipe: Any) -> AbstractContextManager[Any]:
    """Inside this block every evaluation is computed, and observers are told its number.

    Caching the whole model's output is the method that costs least: it stores one latent. What was enabled
    on the pipeline before is in force again afterwards.

    Args:
        pipe: a pipeline or denoiser.
    """
    return dcache.enabled(pipe, dcache.methods.interval(interval=1, sites=MODEL))
