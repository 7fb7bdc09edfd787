"""Make the schedules that ship with the demo: `dcache calibrate` on captions that the model was trained on.

    python examples/calibrate_demo.py              # guidance 3 and none; 2x, 3x and 4x: a quarter of an hour
    python examples/calibrate_demo.py --guidance 3 --speedup 3 --out somewhere

Each is then measured on captions that it was not trained on; these figures are what the file keeps.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from dcache.demo import pictures
from dcache.demo.pipeline import schedules
from dcache.errors import DcacheError
from dcache.eval.subject import load
from dcache.search.calibrate import calibrate
from dcache.search.check import check
from dcache.search.rendering.render import Renderer
from dcache.util.files import make_folder

# No other seed of the examples draws these captions.
SEED = 7
# Captions whose figures are written into the file.
CHECKED = 8
GUIDANCES, SPEEDUPS = (3.0, 1.0), (2.0, 3.0, 4.0)


def file_name(speedup: float, guidance: float) -> str:
    """`guided-3x.schedule.json`, `plain-2x.schedule.json`."""
    return f"{'guided' if guidance > 1 else 'plain'}-{speedup:g}x.schedule.json"


def show(stage: str, done: int, total: int) -> None:
    print(f"  {stage}: {done} of at most {total} calls", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--guidance", type=float, action="append", help="default: 3 and 1 (none)")
    parser.add_argument("--speedup", type=float, action="append", help="default: 2, 3 and 4")
    parser.add_argument("--prompts", type=int, default=24, help="to fit and check on (default: 24)")
    parser.add_argument("--budget", type=int, default=60, help="sets of places to try (default: 60)")
    parser.add_argument("--held-out", type=int, default=32, help="captions to measure on (default: 32)")
    parser.add_argument("--out", type=Path, default=schedules(), help="(default: the shipped ones)")
    options = parser.parse_args()
    trained = pictures.sample_captions(options.prompts, np.random.default_rng(SEED), unseen=False)
    held_out = [caption.text for caption in pictures.demo_captions(options.held_out)]
    try:
        out = make_folder(options.out)
        for guidance in options.guidance or GUIDANCES:
            subject = load("demo", guidance=guidance, device="cpu", dtype="float32")
            other = Renderer(subject, held_out)
            for speedup in options.speedup or SPEEDUPS:
                began = time.perf_counter()
                calibrated = calibrate(
                    subject,
                    [caption.text for caption in trained],
                    speedup,
                    budget=options.budget,
                    seed=SEED,
                    progress=show,
                )
                seconds = time.perf_counter() - began
                checked = check(subject, calibrated.schedule, held_out[:CHECKED])
                path = checked.schedule.save(out / file_name(speedup, guidance))
                print(
                    f"{path}: {checked.speedup:.2f}x, {calibrated.placed:.1f} dB with these places, "
                    f"{calibrated.fitted:.1f} dB with fitted weights, "
                    f"{other.quality(calibrated.schedule):.1f} dB on captions it was not trained on; "
                    f"{calibrated.rendered} cached runs, {seconds:.0f} s",
                    flush=True,
                )
    except DcacheError as error:
        print(f"calibrate_demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
