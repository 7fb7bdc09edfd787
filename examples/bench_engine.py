"""What the engine itself costs, measured on the shipped model: `make bench`.

Three figures, each a median over alternated runs:
- time inside dcache on an all-compute run, as a share of the run (measured inside);
- `interval(4)` on the trunk: the wall clock its computed share allows (everything outside the blocks
counted as it is)
  over the wall clock it took;
- Python calls inside dcache on one predicted denoiser call, beyond one per block.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import dcache
from dcache.demo.pictures import demo_captions
from dcache.demo.pipeline import call_options, load_pipeline

PACKAGE = str(Path(dcache.__file__).parent)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--prompts", type=int, default=8)
    options = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}"
    )
    pipe = load_pipeline()
    captions = [caption.text for caption in demo_captions(options.prompts)]

    def run() -> float:
        began = time.perf_counter()
        pipe(captions, generator=torch.Generator().manual_seed(0), output_type="np", **call_options())
        return time.perf_counter() - began

    run()
    full: list[float] = []
    inside: list[float] = []
    cached: list[float] = []
    blocks: list[float] = []
    for _ in range(options.repeats):
        full.append(run())
        blocks.append(time_in_blocks(pipe, run))
        with dcache.enabled(pipe, "interval", interval=1):
            wall = run()
            inside.append(dcache.stats(pipe).seconds_inside / wall)
        with dcache.enabled(pipe, "interval", interval=4):
            cached.append(run())
            stats = dcache.stats(pipe)
    share = stats.computed / (stats.computed + stats.predicted)
    allowed = statistics.median(full) - (1 - share) * statistics.median(blocks)
    print(
        f"uncached run              {statistics.median(full):.3f} s, {statistics.median(blocks):.3f} s "
        f"of it in blocks"
    )
    print(f"inside dcache, all computed  {100 * statistics.median(inside):.2f} % of the run (bar: under 1 %)")
    print(
        f"interval(4), trunk        computes {100 * share:.0f} %: {statistics.median(cached):.3f} s, allowed "
        f"{allowed:.3f} s: {100 * allowed / statistics.median(cached):.1f} % (bar: 92 %)"
    )
    depth = len(pipe.transformer.transformer_blocks)
    print(
        f"Python calls inside dcache on a predicted denoiser call: {calls_per_prediction(pipe, run)} "
        f"(bar: 40 plus {depth} blocks)"
    )


def time_in_blocks(pipe: Any, run: Callable[[], float]) -> float:
    """Seconds spent in the transformer blocks during one uncached run."""
    spent = 0.0
    began = 0.0

    def before(*_: Any) -> None:
        nonlocal began
        began = time.perf_counter()

    def after(*_: Any) -> None:
        nonlocal spent
        spent += time.perf_counter() - began

    blocks = pipe.transformer.transformer_blocks
    hooks = [b.register_forward_pre_hook(before) for b in blocks] + [
        b.register_forward_hook(after) for b in blocks
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return spent


def calls_per_prediction(pipe: Any, run: Callable[[], float]) -> int:
    """Most Python calls inside the package from the start of a predicted denoiser call to the next one's."""
    counts: list[int] = []

    def profile(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            if frame.f_code.co_name == "denoise":
                counts.append(0)
            if counts:
                counts[-1] += 1

    with dcache.enabled(pipe, "newton", interval=20, warmup=2, last=False):
        sys.setprofile(profile)
        try:
            run()
        finally:
            sys.setprofile(None)
    return max(counts[3:-1])


if __name__ == "__main__":
    main()
