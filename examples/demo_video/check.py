"""Generate clips for held-out and for trained captions; count how many are read back as what was asked."""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dcache.demo.video import clips
from dcache.demo.video.pipeline import GUIDANCE, STEPS, call_options, load_pipeline, model_path

TESTS = Path(__file__).parents[2] / "tests" / "demo"
sys.path.append(str(TESTS))
from clip_reader import read  # noqa: E402  (it lives with the tests that need it)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=model_path())
    parser.add_argument("--count", type=int, default=80, help="captions of each kind")
    parser.add_argument("--steps", type=int, nargs="+", default=[STEPS])
    parser.add_argument("--guidance", type=float, nargs="+", default=[GUIDANCE])
    parser.add_argument("--shift", type=float, help="try another flow_shift of the scheduler")
    parser.add_argument("--sheet", type=Path, help="write the first 16 held-out clips here, a row for each")
    args = parser.parse_args()

    pipe = load_pipeline(path=args.model)
    if args.shift:
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, flow_shift=args.shift)

    def generate(texts: list[str], seeds: range, steps: int, guidance: float) -> NDArray[np.float32]:
        parts = []
        for i in range(0, len(texts), 16):
            options = call_options() | {"num_inference_steps": steps, "guidance_scale": guidance}
            generators = [torch.Generator().manual_seed(seed) for seed in seeds[i : i + 16]]
            parts.append(pipe(texts[i : i + 16], generator=generators, output_type="np", **options).frames)
        return np.concatenate(parts)

    for unseen in (True, False):
        captions = clips.sample_captions(args.count, np.random.default_rng(20 + unseen), unseen=unseen)
        labels = np.array([caption.labels for caption in captions])
        for steps in args.steps:
            for guidance in args.guidance:
                start = time.time()
                pixels = generate([c.text for c in captions], range(args.count), steps, guidance)
                right = read(pixels) == labels
                each = {k: round(float(v), 3) for k, v in zip(clips.ATTRIBUTES, right.mean(0), strict=True)}
                kind = "held-out" if unseen else "trained"
                spent = time.time() - start
                print(
                    f"{kind} {steps=} {guidance=} all right {right.all(1).mean():.3f} {each} {spent:.0f} s",
                    flush=True,
                )
                if unseen and args.sheet:
                    sheet(pixels[:16]).save(args.sheet)


def sheet(pixels: NDArray[np.float32]) -> Image.Image:
    """A row for each clip, its frames side by side."""
    rows = pixels.transpose(0, 2, 1, 3, 4).reshape(-1, pixels.shape[1] * clips.SIDE, 3)
    return Image.fromarray((rows * 255).round().astype(np.uint8))


if __name__ == "__main__":
    main()
