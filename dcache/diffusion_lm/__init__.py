"""Caching for masked-diffusion language models: compute some rows of a sequence, and reuse the others' KV.

    dcache.enable(model, dcache.methods.dkv(refresh=8))
    out = dcache.diffusion_lm.generate(model, input_ids, max_new_tokens=128)

A policy says which rows are computed; it is one small file in `policies/`. The engine computes them at their
positions, stores their keys and values, and attends to everything. This part stands on `dcache.kernels`,
`dcache.intercept`, `dcache.util`, `dcache.errors` and torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dcache.diffusion_lm.method import RowMethod, RowPolicy
from dcache.diffusion_lm.registry import available, find, make, preset
from dcache.diffusion_lm.row_stats import RowStats
from dcache.diffusion_lm.step import Step

if TYPE_CHECKING:
    from dcache.diffusion_lm import decoders as decoders
    from dcache.diffusion_lm.generation import generate

__all__ = [
    "RowMethod",
    "RowPolicy",
    "RowStats",
    "Step",
    "available",
    "decoders",
    "find",
    "generate",
    "make",
    "preset",
]


def __getattr__(name: str) -> Any:
    if name == "decoders":
        return importlib.import_module("dcache.diffusion_lm.decoders")
    if name == "generate":
        return importlib.import_module("dcache.diffusion_lm.generation").generate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
