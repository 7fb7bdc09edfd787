"""Measure the numbers that `teacache`, `magcache`, `smoothcache` and `sencache` need, in uncached runs.

    python examples/measure_coefficients.py demo --out numbers.json
    python examples/measure_coefficients.py black-forest-labs/FLUX.1-dev --out flux.json --device cuda

    dcache.enable(pipe, "teacache", coefficients="flux.json", threshold=0.25)

What is measured, y_t being what is looked at in evaluation t and relL1(p, q) = mean|p - q| / mean|q|:

- teacache: coefficients of the polynomial of degree 4 (highest power first) that takes relL1(x_t, x_{t-1})
  of what the first block gives its attention to relL1(d_t, d_{t-1}) of the trunk's delta, by least squares.
- magcache: r_t = mean over tokens of |d_t| / |d_{t-1}| of the trunk's delta, with the Euclidean norm over
  channels; r_0 = 1.
- smoothcache: relL1(y_t, y_{t+j}) of every sublayer's output for j = 1, 2, 3, averaged over the sublayers of
  a kind. From evaluation 0 on, the table leaves out as many evaluations, up to 3, as have errors below alpha;
  the first and the last are computed. alpha = 0 computes all.
- sencache: how the output changes with the latents and with the timestep (`dcache.search.sensitivity`), in
  runs of its own with three calls in place of one; `--no-sencache` leaves them out.

Every number is a mean over prompts and guidance branches (of smoothcache's, above and below the line). They
hold for this model, number of steps, sampler, resolution and guidance: "of" in the file says which.
It is `dcache calibrate --out FILE.safetensors`, which observes all that and more, and a few lines to write.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from dcache.errors import DcacheError
from dcache.eval.machine import versions
from dcache.eval.subject import Subject, load
from dcache.search import coefficients
from dcache.search.observe import denoiser_of, observe
from dcache.search.sensitivity import sensitivities
from dcache.sites.discovery import discover

PROMPTS = (
    "a photo of a red fox in the snow",
    "an oil painting of a harbour at dusk",
    "a bowl of fruit on a wooden table",
    "an astronaut riding a horse",
)


def prompts_of(subject: Subject) -> list[str]:
    """The default prompts."""
    if subject.name == "demo":
        from dcache.demo.pictures import sample_captions

        # Trained captions: comparisons elsewhere use held-out ones.
        return [c.text for c in sample_captions(8, np.random.default_rng(1), unseen=False)]
    takes = inspect.signature(type(subject.pipe).__call__).parameters
    return list(PROMPTS) if "prompt" in takes else [str(i) for i in range(len(PROMPTS))]


def sensitivities_of(subject: Subject, prompts: list[str], module: nn.Module) -> dict[str, Any]:
    """SenCache's entry of the file; none, and a line, for a denoiser whose timestep cannot be changed."""
    try:
        return {"sencache": {"sensitivities": sensitivities(subject, prompts, module)}}
    except DcacheError as error:
        print(f"not measured: sencache: {error}")
        return {}


def measure(options: argparse.Namespace) -> None:
    if not options.out.resolve().parent.is_dir():
        raise DcacheError(f"--out: there is no folder {options.out.resolve().parent}")
    subject = load(
        options.pipe,
        steps=options.steps,
        guidance=options.guidance,
        dtype=options.dtype,
        device=options.device,
        options=json.loads(options.call),
    )
    takes = inspect.signature(type(subject.pipe).__call__).parameters
    if unknown := [key for key in subject.options if key not in takes]:
        # A call with **kwargs would swallow them.
        raise DcacheError(
            f"{type(subject.pipe).__name__} takes no {', '.join(unknown)}: it takes {', '.join(takes)}"
        )
    name, module = denoiser_of(subject, options.component)
    smooth = bool(discover(module).sublayers) and not options.no_smoothcache
    prompts, began = options.prompt or prompts_of(subject), time.perf_counter()
    profile = observe(
        subject,
        prompts,
        sites=("auto", "sublayers") if smooth else ("auto",),
        component=name,
        timing=False,
        progress=lambda what: print(
            f"{what} ({time.perf_counter() - began:.0f} s)", file=sys.stderr, flush=True
        ),
    )
    source = {
        "pipe": options.pipe,
        "call": {k: v for k, v in subject.options.items() if isinstance(v, str | int | float | bool | None)},
        "prompts": prompts,
        "dtype": options.dtype,
        "versions": versions(),
    }
    more = {} if options.no_sencache else sensitivities_of(subject, prompts, module)
    entries, missing = coefficients.save(profile, options.out, source, options.alpha, more)
    print(f"wrote {options.out}: {', '.join(entries)}; {profile.steps} evaluations, {len(prompts)} run(s)")
    if "teacache" in entries:
        print(f"teacache: R^2 = {entries['teacache']['r2']:.3f} over {entries['teacache']['points']} changes")
    for preset, why in missing.items():
        print(f"not measured: {preset}: {why}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "pipe", metavar="PIPE", help="a name on the hub, a folder, or 'demo' for the shipped model"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--prompt", action="append", help="may be given more than once; each is one run")
    parser.add_argument("--steps", type=int, help="default: the pipeline's own")
    parser.add_argument("--guidance", type=float, help="default: the pipeline's own")
    parser.add_argument("--call", default="{}", metavar="JSON", help="more arguments of the pipeline's call")
    parser.add_argument("--component", help="which denoiser, where the pipeline has several")
    parser.add_argument("--alpha", type=float, default=0.15, help="SmoothCache's threshold (default: 0.15)")
    parser.add_argument("--no-smoothcache", action="store_true", help="keep no sublayer outputs: less memory")
    parser.add_argument("--no-sencache", action="store_true", help="leave out the runs that it needs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    try:
        measure(parser.parse_args())
    except (DcacheError, OSError, ValueError, RuntimeError) as error:
        print(f"measure_coefficients: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
