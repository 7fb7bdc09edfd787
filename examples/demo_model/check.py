"""Generate pictures for held-out and for trained captions; count how many the demo's two judges recognise."""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from common import clip_accuracy
from numpy.typing import NDArray
from PIL import Image

from dcache.demo import pictures
from dcache.demo.judges import load_clip_shapes, load_frechet_shapes
from dcache.demo.pipeline import GUIDANCE, STEPS, call_options, load_pipeline, model_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=model_path())
    parser.add_argument("--count", type=int, default=200, help="captions of each kind")
    parser.add_argument("--steps", type=int, nargs="+", default=[STEPS])
    parser.add_argument("--guidance", type=float, nargs="+", default=[GUIDANCE])
    parser.add_argument("--shift", type=float, help="try another flow_shift of the scheduler")
    parser.add_argument("--grid", type=Path, help="write the first 64 held-out pictures here")
    args = parser.parse_args()

    pipe, reader = load_pipeline(path=args.model), load_frechet_shapes()
    clip, _, tokenizer = load_clip_shapes()
    if args.shift:
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, flow_shift=args.shift)

    def generate(texts: list[str], seeds: range, steps: int, guidance: float) -> NDArray[np.float32]:
        parts = []
        for i in range(0, len(texts), 40):
            options = call_options() | {"num_inference_steps": steps, "guidance_scale": guidance}
            generators = [torch.Generator().manual_seed(seed) for seed in seeds[i : i + 40]]
            parts.append(pipe(texts[i : i + 40], generator=generators, output_type="np", **options).images)
        return np.concatenate(parts)

    for unseen in (True, False):
        captions = pictures.sample_captions(args.count, np.random.default_rng(20 + unseen), unseen=unseen)
        labels = np.array([caption.labels for caption in captions])
        for steps in args.steps:
            for guidance in args.guidance:
                start = time.time()
                images = generate([c.text for c in captions], range(args.count), steps, guidance)
                right = reader.read(images) == labels
                each = {
                    k: round(float(v), 3) for k, v in zip(pictures.ATTRIBUTES, right.mean(0), strict=True)
                }
                kind = "held-out" if unseen else "trained"
                spent = time.time() - start
                print(
                    f"{kind} {steps=} {guidance=} all right {right.all(1).mean():.3f} {each} {spent:.0f} s",
                    flush=True,
                )
                random, near = clip_accuracy(clip, tokenizer, as_uint8(images), captions)
                print(f"  clip-shapes: {random:.3f} against nine others, {near:.3f} against 29 neighbours")
                if unseen and args.grid:
                    grid(images[:64]).save(args.grid)
                    for caption, row, good in zip(captions, reader.read(images), right.all(1), strict=True):
                        if not good:
                            read = [v[i] for v, i in zip(pictures.ATTRIBUTES.values(), row, strict=True)]
                            print("  ", caption.text, "was read as", " ".join(read))


def as_uint8(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Turn values in [0, 1] into levels."""
    return (images * 255).round().astype(np.uint8)


def grid(images: NDArray[np.float32]) -> Image.Image:
    """Rows of eight pictures, twice enlarged."""
    images = images[: len(images) // 8 * 8]
    rows = images.reshape(-1, 8, 64, 64, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 512, 3)
    return Image.fromarray(as_uint8(rows)).resize((1024, 2 * len(rows)), Image.Resampling.NEAREST)


if __name__ == "__main__":
    main()
