"""An animated picture: the same caption and seed, uncached and planned, side by side while they are denoised.

    python examples/race.py                    # docs/pictures/race.gif, with `enable(pipe, speedup=2.5)`
    python examples/race.py --speedup 3.5 --steps 20 --out somewhere.gif

Time runs by the denoiser's counted FLOPs: a predicted evaluation takes what it still computes.
"""

from __future__ import annotations

import argparse
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

import dcache
from dcache.demo.pipeline import call_options, load_pipeline
from dcache.eval.call_cost import measure_call

CAPTION = "a large striped red circle at the top left on a blue background"
ZOOM, EDGE, BAR, FRAMES = 4, 12, 14, 48
COMPUTED, PREDICTED, TODO, INK = (79, 70, 229), (165, 180, 252), (229, 231, 235), (17, 24, 39)


def previews(pipe: Any, call: dict[str, Any]) -> tuple[list[Image.Image], int]:
    """The picture that each step of a call would give, ending with the result; FLOPs of the denoiser."""
    shown: list[Image.Image] = []

    def keep(step: int, timestep: torch.Tensor, latents: torch.Tensor) -> None:
        with torch.no_grad():
            decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
        shown.append(pipe.image_processor.postprocess(decoded, output_type="pil")[0])

    with measure_call([pipe.transformer], count_flops=True) as cost:
        pipe(CAPTION, **call, generator=torch.Generator().manual_seed(3), callback=keep, callback_steps=1)
    return shown, cost.denoiser_flops or 0


def ends_of(computed: list[bool], plain: int, cached: int) -> list[float]:
    """When each evaluation ends, in computed evaluations.

    Args:
        computed: whether each of them is computed.
        plain: FLOPs of as many computed ones.
        cached: FLOPs of these.
    """
    whole = plain / len(computed)
    predicted = (cached - sum(computed) * whole) / max(computed.count(False), 1)
    return list(accumulate(1.0 if each else predicted / whole for each in computed))


def strip(image: Image.Image, title: str, done: int, computed: list[bool]) -> Image.Image:
    """A preview with its title and a bar of evaluations."""
    side = image.width * ZOOM
    sheet = Image.new("RGB", (side, side + 3 * EDGE + BAR), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((0, 0), title, fill=INK)
    sheet.paste(image.resize((side, side), Image.Resampling.NEAREST), (0, EDGE + 4))
    width = side / len(computed)
    for step, whole in enumerate(computed):
        colour = TODO if step >= done else COMPUTED if whole else PREDICTED
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
    plain, plain_flops = previews(pipe, call)
    dcache.enable(pipe, speedup=options.speedup)
    pipe("a small green square on a yellow background", **call)
    cached, cached_flops = previews(pipe, call)
    (rows,) = dcache.trace(pipe).components["transformer"].rows.values()
    computed = list(rows["trunk"])
    ends = ends_of(computed, plain_flops, cached_flops)
    frames = []
    for frame in range(FRAMES + 12):
        clock = min(frame / FRAMES, 1.0) * len(plain)
        slow = min(int(clock), len(plain))
        fast = sum(end <= clock + 1e-9 for end in ends)
        left = strip(plain[max(slow - 1, 0)], "uncached", slow, [True] * len(plain))
        ratio = plain_flops / cached_flops
        right = strip(cached[max(fast - 1, 0)], f"dcache, {ratio:.1f}x fewer denoiser FLOPs", fast, computed)
        sheet = Image.new("RGB", (2 * left.width + 3 * EDGE, left.height + 2 * EDGE), "white")
        sheet.paste(left, (EDGE, EDGE))
        sheet.paste(right, (2 * EDGE + left.width, EDGE))
        frames.append(sheet.quantize(64))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(options.out, save_all=True, append_images=frames[1:], duration=90, loop=0, optimize=True)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
