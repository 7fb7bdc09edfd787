"""CacheQuant on the demo: what corrections repair of caching and of quantisation together.

    pip install torchao
    python examples/measure_corrections.py

PSNR in dB to the pictures in full precision without caching, of held-out captions. Corrections are fitted on
other captions: "own" to the outputs of the quantised pipeline, "joint" to those in full precision. W4 are
weights rounded to four bits by output channel. Without torchao the row int8 is left out.
"""

from __future__ import annotations

import argparse
import warnings
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

import dcache
from dcache.errors import DcacheWarning
from dcache.eval.prompts import read
from dcache.eval.subject import Subject, load
from dcache.schedule import Schedule
from dcache.schedulers.planners.registry import make
from dcache.search.corrections import fit_corrections
from dcache.search.observe import observe


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--captions", type=int, default=4, help="fitted on, and as many held out (default: 4)"
    )
    parser.add_argument("--computes", type=int, default=7, help="computed of 20 evaluations (default: 7)")
    given = parser.parse_args()
    warnings.simplefilter("ignore", DcacheWarning)
    exact = load("demo", guidance=3.0, steps=20, device="cpu")
    fitting, held_out = read(f"demo-train:{given.captions}"), read(f"demo:{given.captions}")
    profile = observe(exact, fitting, sites=["trunk"], timing=False)
    planned = make("cachequant", profile, computes=given.computes)
    truth = rendered(exact, held_out)

    def psnr(subject: Subject, schedule: Schedule | None) -> float:
        error = np.square(rendered(subject, held_out, schedule) - truth).mean(axis=(1, 2, 3))
        return float(np.mean(-10 * np.log10(np.maximum(error, 1e-12))))

    cached = psnr(exact, planned)
    print("| | cached only | quantised only | both | both, own | both, joint |\n|---|---|---|---|---|---|")
    for name, quantise in {"int8": int8, "W4": w4}.items():
        subject = replace(exact, pipe=load("demo", device="cpu").pipe)
        try:
            quantise(subject.pipe.transformer.transformer_blocks)
        except ImportError:
            print(f"| {name} | needs torchao | | | | |")
            continue
        own, _ = fit_corrections(subject, planned, fitting)
        joint, _ = fit_corrections(subject, planned, fitting, reference=exact.pipe)
        figures = [cached, *(psnr(subject, schedule) for schedule in (None, planned, own, joint))]
        print(f"| {name} | {' | '.join(f'{figure:.1f}' for figure in figures)} |", flush=True)


def rendered(subject: Subject, prompts: list[str], schedule: Schedule | None = None) -> Any:
    """Pictures under a schedule, None without caching; picture i has seed 1000 + i."""
    caching = nullcontext() if schedule is None else dcache.enabled(subject.pipe, schedule)
    with caching:
        return subject(prompts, [1000 + i for i in range(len(prompts))])


def int8(blocks: nn.Module) -> None:
    """Weights and activations of eight bits, scales of the activations at run time."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(blocks, Int8DynamicActivationInt8WeightConfig())


@torch.no_grad()
def w4(blocks: nn.Module) -> None:
    """Round the weights of all linear layers to sixteen levels for each output channel."""
    for layer in blocks.modules():
        if isinstance(layer, nn.Linear):
            step = layer.weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / 7
            layer.weight.copy_((layer.weight / step).round().clamp(-8, 7) * step)


if __name__ == "__main__":
    main()
