"""A small finished run, made by hand: every figure of its report can be computed in the head."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcache.eval.manifest import Entry, Manifest
from dcache.eval.settings import Settings
from dcache.eval.store import Store
from dcache.schedule import Plan, Schedule

PROMPTS = ["a fox | in <b>snow</b>", "</script><script>boom()</script>", "an *owl* & a `cat`"]
METHODS = ("uncached", "half", "close", "black")
# Seconds of a warm call with two pictures; the first call and one with a single picture take nine.
SECONDS = {"uncached": 4.0, "half": 2.0, "close": 3.2, "black": 1.0}
PSNR = {"half": 30.0, "close": 40.0}
BLACK = "2 of 2 pictures are constant"

Make = Callable[..., tuple[Store, dict[str, Any]]]


def record(name: str, batch: int, pictures: int) -> dict[str, Any]:
    """What is kept of a call; FLOPs were counted in the first one."""
    whole = name == "uncached"
    seconds = SECONDS[name] if batch > 0 and pictures == 2 else 9.0
    return {
        "seconds": seconds,
        "denoiser_seconds": seconds / 2,
        "flops": (800 if whole else 200) if batch == 0 else None,
        "denoiser_flops": None,
        "bytes_held": 0 if whole else 2048,
        "peak_memory": None,
        "computed": None if whole else 0.25,
        "warm": batch > 0,
        "run": "2026-11-21T10:00:00",
        "warnings": ["watch <out>"] if name == "close" else [],
        "broken": BLACK if name == "black" else None,
    }


def scored(name: str, count: int) -> dict[str, Any]:
    """Scores of a method: PSNR with an interval, a score of the pictures alone, a distance to nothing."""
    psnr = PSNR.get(name)
    if psnr is None:
        return {"psnr": {"value": None, "why_not": BLACK if name == "black" else "uncached"}}
    return {
        "psnr": {"value": psnr, "low": psnr - 2, "high": psnr + 1, "each": [psnr + i for i in range(count)]},
        "flicker": {"value": 0.5, "low": None, "high": None, "each": None},
        "fid": {"value": None, "low": None, "high": None, "each": None, "why_not": "too few pictures"},
    }


def metric(title: str, better: str, against: str, unit: str = "") -> dict[str, Any]:
    """A metric as scores.json describes it."""
    return {"title": title, "unit": unit, "better": better, "against": against, "what": title, "digits": 1}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a run with pictures or clips of this shape."""

    def run(*shape: int, each: int = 3) -> tuple[Store, dict[str, Any]]:
        settings = {"pipeline": "toy", "prompts": "3", **Settings(each, seed=7, batch_size=2).content()}
        pipeline = {"name": "<toy>", "class": "Toy", "kind": "image", "steps": 4, "guidance": 3.0}
        entries = [
            Entry(name, name, name, "0" * 12, "" if name == "uncached" else f", '{name}')", "")
            for name in METHODS
        ]
        Manifest(settings, pipeline, PROMPTS, entries).write(tmp_path)
        store, noise = Store.open(tmp_path), np.random.default_rng(0)
        trace = Schedule(4, {"toy": Plan({"*": {"attn:0": (True, False) * 2, "mlp:0": (True,) * 4}})})
        for entry in store.methods:
            for batch, items in enumerate(store.batches):
                pixels = noise.integers(0, 255, (len(items), *shape, 3), dtype=np.uint8)
                pixels *= entry.label != "black"
                store.keep(
                    entry,
                    batch,
                    pixels,
                    record(entry.label, batch, len(items)),
                    None if entry.label == "uncached" else trace,
                )
        metrics = {
            "psnr": metric("PSNR", "higher", "uncached", "dB"),
            "flicker": metric("flicker", "lower", ""),
            "fid": metric("FID", "lower", "reference"),
        }
        methods = {name: scored(name, len(store.items)) for name in METHODS}
        return store, {"metrics": metrics, "methods": methods, "warnings": ["too few"]}

    return run


@pytest.fixture
def run(make: Make) -> tuple[Store, dict[str, Any]]:
    """Nine pictures of three prompts, five calls, of which the last one makes one picture."""
    return make(8, 12)
