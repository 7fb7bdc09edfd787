"""Generate pictures for held-out and for trained captions; count how many attributes are read back."""

import argparse
from pathlib import Path

import numpy as np
import torch
from components_unet import MODEL_PATH
from diffusers import StableDiffusionPipeline

from dcache.demo import pictures
from dcache.demo.judges import load_frechet_shapes
from dcache.demo.pipeline import GUIDANCE, STEPS, no_progress_bars

from check import grid  # isort: skip  (components_unet shows where it is)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_PATH)
    parser.add_argument("--count", type=int, default=200, help="captions of each kind")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--grid", type=Path, help="write the first 64 held-out pictures here")
    args = parser.parse_args()

    with no_progress_bars():
        pipe, reader = StableDiffusionPipeline.from_pretrained(args.model), load_frechet_shapes()
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": args.steps, "guidance_scale": args.guidance, "output_type": "np"}
    for unseen in (True, False):
        captions = pictures.sample_captions(args.count, np.random.default_rng(20 + unseen), unseen=unseen)
        parts = []
        for start in range(0, args.count, 40):
            texts = [caption.text for caption in captions[start : start + 40]]
            generators = [torch.Generator().manual_seed(start + i) for i in range(len(texts))]
            parts.append(pipe(texts, generator=generators, **options).images)
        images = np.concatenate(parts)
        right = reader.read(images) == np.array([caption.labels for caption in captions])
        each = dict(zip(pictures.ATTRIBUTES, right.mean(0).round(3).tolist(), strict=True))
        kind = "held-out" if unseen else "trained"
        print(f"{kind} attributes {right.mean():.3f} all right {right.all(1).mean():.3f} {each}", flush=True)
        if unseen and args.grid:
            grid(images[:64]).save(args.grid)


if __name__ == "__main__":
    main()
