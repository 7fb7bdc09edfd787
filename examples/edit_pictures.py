"""Edit pictures of the demo by keys and values of another call (FreeFlux), and draw the grid.

    python examples/edit_pictures.py --out edit.png

Each column is a picture: the source, the edited prompt alone, and the edited prompt with keys and values of
the source's call at all blocks, at the first half of the blocks, at the second, and in the first half of the
steps. Printed are the PSNR to the source in dB, and the share of the prompt's change of colour that is left.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import dcache
from dcache.demo.pipeline import call_options, load_pipeline
from dcache.eval.fidelity import decibels, squared_errors
from dcache.search.editing.kv_tracks import Tracks

SOURCES = (
    "a large striped red circle at the top left on a blue background",
    "a small plain green star at the bottom right on a white background",
)
EDITS = (
    "a large striped yellow circle at the top left on a blue background",
    "a small plain red star at the bottom right on a white background",
)
SETTINGS: dict[str, dict[str, Any]] = {
    "all": {},
    "blocks 0-5": {"sites": "kv:0-5"},
    "blocks 6-11": {"sites": "kv:6-11"},
    "steps 0-9": {"steps": range(10)},
}
Pictures = NDArray[np.float64]


def pictures(pipe: Any, prompts: tuple[str, ...], steps: int) -> Pictures:
    """(B, H, W, 3) in [0, 1]; picture i has seed i + 5."""
    generators = [torch.Generator().manual_seed(5 + i) for i in range(len(prompts))]
    options = {**call_options(), "num_inference_steps": steps}
    return np.asarray(
        pipe(list(prompts), **options, generator=generators, output_type="np").images, np.float64
    )


def psnr(a: Pictures, b: Pictures) -> list[float]:
    """Of each picture, in dB, at most 100."""
    return [decibels(float(error)) for error in squared_errors(a, b)]


def share(edited: Pictures, plain: Pictures, source: Pictures) -> list[float]:
    """How far each picture moved the way the prompt alone moves it, where that changes it most."""
    change = plain - source
    weighted = change * (np.abs(change).mean(-1, keepdims=True) > 0.15)
    moved = ((edited - source) * weighted).sum((1, 2, 3))
    return [float(x) for x in moved / np.maximum((change * weighted).sum((1, 2, 3)), 1e-9)]


def rendered(pipe: Any, steps: int) -> tuple[dict[str, Pictures], Tracks]:
    """Label -> pictures, and the tracks of the source's call."""
    with dcache.capturing(pipe) as tracks:
        source = pictures(pipe, SOURCES, steps)
    made = {"source": source, "edited prompt": pictures(pipe, EDITS, steps)}
    for label, options in SETTINGS.items():
        with dcache.injecting(pipe, tracks, **options):
            made[label] = pictures(pipe, EDITS, steps)
    return made, tracks


def main() -> int:
    from PIL import Image

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("edit.png"))
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    made, tracks = rendered(load_pipeline(), options.steps)
    print(f"tracks of {len(tracks) // 2} layer evaluations: {tracks.bytes / 2**20:.1f} MiB")
    source, plain = made["source"], made["edited prompt"]
    for label, edited in list(made.items())[1:]:
        near, kept = psnr(edited, source), share(edited, plain, source)
        figures = (", ".join(f"{x:{form}}" for x in row) for row, form in ((near, ".1f"), (kept, ".2f")))
        print("{:<14} PSNR {}   share of the change {}".format(label, *figures))
    # A row for each setting, the pictures beside each other; every pixel is two wide.
    grid = np.concatenate([np.concatenate(list(each), axis=0) for each in made.values()], axis=1)
    enlarged = grid.repeat(2, axis=0).repeat(2, axis=1)
    Image.fromarray((enlarged * 255).round().astype(np.uint8)).save(options.out)
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
