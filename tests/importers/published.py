"""Files as other methods publish them, small and with random content."""

from __future__ import annotations

import random
from typing import Any

import torch

PIXART = ("attn1", "attn2", "ff")
FLUX = ("full_attn", "full_ff", "full_ff_context")
SINGLE = ("single_attn", "single_proj_mlp", "single_proj_out")


def ecad(draw: random.Random, steps: int, blocks: int, singles: int | None = None) -> dict[str, Any]:
    """ECAD's, of PixArt or, with single blocks, of FLUX."""

    def bits(names: tuple[str, ...]) -> dict[str, bool]:
        return {name: draw.random() < 0.4 for name in names}

    def step() -> dict[str, dict[str, bool]]:
        full = {str(i): bits(PIXART if singles is None else FLUX) for i in range(blocks)}
        return full | {f"single_{i}": bits(SINGLE) for i in range(singles or 0)}

    about = {"num_blocks": blocks, "num_inference_steps": steps, "name": "candidate 7"}
    about |= {} if singles is None else {"num_single_blocks": singles}
    table = {f"{t:03}": step() for t in range(steps)}
    return {
        "cache_schedule": {**about, "attributes": {"generation": 358}, "schedule": table},
        "config": {"height": 256, "width": 128, "guidance_scale": 4.5},
        "metrics": {"total_macs": 1175355260928, "latency": {"avg": 64.2, "gpu": "a GPU"}},
    }


def routers(draw: random.Random, steps: int, blocks: int, held: int | None = None) -> dict[str, Any]:
    """A file of routers; the one numbered `held` is HarmoniCa's of the first evaluation."""
    rows = [[draw.uniform(-5, 5) for _ in range(2 * blocks)] for _ in range(steps)]
    if held is not None:
        rows[held] = [5.0] * (2 * blocks)
    return {"routers": {f"{t}.prob": torch.tensor(row) for t, row in enumerate(rows)}}


def bac(draw: random.Random, steps: int, layers: int) -> dict[str, Any]:
    """BAC's lists of a decoder."""
    return {
        f"decoder.layers.{i}.dropout{k}": [0, *sorted(draw.sample(range(1, steps), 3))]
        for i in range(layers)
        for k in (1, 2, 3)
    }


def smoothcache(draw: random.Random, steps: int) -> dict[str, Any]:
    """SmoothCache's rows of kinds."""
    return {kind: [1, *(draw.randrange(2) for _ in range(steps - 1))] for kind in PIXART}


def request(steps: int) -> dict[str, Any]:
    """What SGLang's artefact says of the request that it is for."""
    return {
        "pipeline": "WanPipeline",
        "checkpoint": "some/model",
        "num_inference_steps": steps,
        "height": 32,
        "width": 48,
        "guidance_scale": 3.0,
        "do_classifier_free_guidance": True,
        "quality": "default",
        "attention_backend": None,
        "dtype": "bfloat16",
        "scheduler": "UniPC",
        "scheduler_config_sha256": "0" * 64,
        "timesteps": [float(1000 - 100 * t) for t in range(steps)],
        "sigmas": [1.0 - t / steps for t in range(steps + 1)],
    }
