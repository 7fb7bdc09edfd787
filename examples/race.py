"""An animated picture: the same caption and seed, uncached and planned, side by side while they are denoised.

    python examples/race.py                    # docs/pictures/race.gif, with `enable(pipe, speedup=2.5)`
    python examples/race.py --speedup 3.5 --steps 20 --out somewhere.gif

Time runs by counted FLOPs, those of the previews apart.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch.utils.flop_counter import FlopCounterMode

import dcache
from dcache.demo.pipeline import call_options, load_pipeline

CAPTION = "a large striped red circle at the top left on a blue background"
# Pixels, but for ZOOM; the last picture stands still for LAST of the frames.
ZOOM, EDGE, BAR, FRAMES, LAST = 4, 12, 14, 48, 12
COMPUTED, PREDICTED, AHEAD, INK = (79, 70, 229), (165, 180, 252), (229, 231, 235), (17, 24, 39)


def previews(pipe: Any, call: dict[str, Any]) -> tuple[list[Image.Image], list[int]]:
    """What each step of a call would show, the last one being the result, and the FLOPs spent until then."""
    shown: list[Image.Image] = []
    spent: list[int] = []
    decoding = 0

    def keep(step: int, timestep: torch.Tensor, latents: torch.Tensor) -> None:
        nonlocal decoding
        before = counter.get_total_flops()
        spent.append(before - decoding)
        with torch.no_grad():
            decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
        shown.append(pipe.image_processor.postprocess(decoded, output_type="pil")[0])
        decoding += counter.get_total_flops() - before

    with FlopCounterMode(display=False) as counter:
        pipe(CAPTION, **call, generator=torch.Generator().manual_seed(3), callback=keep, callback_steps=1)
    return shown, spent


def strip(image: Image.Image, title: str, done: int, computed: list[bool]) -> Image.Image:
    """A preview with its title and a bar of evaluations."""
    side = image.width * ZOOM
    sheet = Image.new("RGB", (side, side + 3 * EDGE + BAR), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((0, 0), title, fill=INK)
    sheet.paste(image.resize((side, side), Image.Resampling.NEAREST), (0, EDGE + 4))
    width = side / len(computed)
    for step, whole in enumerate(computed):
        colour = AHEAD if step >= done else COMPUTED if whole else PREDICTED
        top = side + 2 * EDGE
        draw.rectangle((step * width, top, (step + 1) * width - 2, top + BAR), fill=colour)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--speedup", type=float, default=2.5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/race.gif"))
    options = parser.parse_args()
    pipe = load_pipeline()
    call = call_options() | {"num_inference_steps": options.steps}
    plain, slow = previews(pipe, call)
    dcache.enable(pipe, speedup=options.speedup)
    pipe("a small green square on a yellow background", **call)
    cached, fast = previews(pipe, call)
    (rows,) = dcache.trace(pipe).components["transformer"].rows.values()
    title = f"dcache, {slow[-1] / fast[-1]:.1f}x fewer FLOPs"
    frames = []
    for frame in range(FRAMES + LAST):
        clock = min(frame / FRAMES, 1.0) * slow[-1]
        steps = [sum(flops <= clock for flops in spent) for spent in (slow, fast)]
        left = strip(plain[max(steps[0] - 1, 0)], "uncached", steps[0], [True] * len(plain))
        right = strip(cached[max(steps[1] - 1, 0)], title, steps[1], list(rows["trunk"]))
        sheet = Image.new("RGB", (2 * left.width + 3 * EDGE, left.height + 2 * EDGE), "white")
        sheet.paste(left, (EDGE, EDGE))
        sheet.paste(right, (2 * EDGE + left.width, EDGE))
        frames.append(sheet.quantize(64))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(options.out, save_all=True, append_images=frames[1:], duration=90, loop=0, optimize=True)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
