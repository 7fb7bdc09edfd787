"""Train `clip-shapes`, a small CLIP of open_clip's own architecture, on drawn pictures and their captions."""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import Run, classification_loss, clip_accuracy, drawn, log, rate, roughen, save_half, to_tensor
from components import TEXT_LENGTH, make_tokenizer
from open_clip import CLIP, ClipLoss, get_model_config, get_tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from dcache.demo.judges import clip_shapes
from dcache.demo.pictures import ATTRIBUTES, Caption, all_captions, held_out, neighbours, render
from dcache.util.files import make_folder, write_json

# The logarithms of the logits' first and largest scale; the largest is CLIP's.
START, LIMIT = math.log(30), math.log(100)
EMBEDDING = 128


def write_config(folder: Path) -> Callable[[list[str]], Tensor]:
    """Write what open_clip needs beside the weights, and return the tokenizer that it makes of that.

    The model is a ResNet with one block a stage and a text tower of two layers.
    """
    tokenizer = make_tokenizer()
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32, "patch_size": None}
    text = {"context_length": TEXT_LENGTH, "vocab_size": len(tokenizer), "width": 96, "heads": 3, "layers": 2}
    # The end token has not the highest id here, which is where open_clip would look for it by default.
    text |= {"pool_type": "eos", "eos_id": tokenizer.eos_token_id, "hf_tokenizer_name": "clip-shapes"}
    model = {"embed_dim": EMBEDDING, "init_logit_scale": START, "vision_cfg": vision, "text_cfg": text}
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    make_folder(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "open_clip_config.json", {"model_cfg": model, "preprocess_cfg": preprocess})
    return get_tokenizer(f"local-dir:{folder}")


def family(caption: Caption, rng: np.random.Generator) -> list[Caption]:
    """A caption and its hard negatives: all mixtures with three other values, and its two colours swapped.

    None of them is held out: most families have nine members, some have fewer.
    """
    near = neighbours(caption)
    changes = {}
    for name in rng.permutation(list(ATTRIBUTES))[:3]:
        others = {getattr(other, name) for other in near} - {getattr(caption, name), *changes.values()}
        changes[str(name)] = str(rng.choice(sorted(others)))
    mixtures: list[dict[str, str]] = [{}]
    for change in changes.items():
        mixtures += [mixture | dict([change]) for mixture in mixtures]
    swapped = replace(caption, colour=caption.background, background=caption.colour)
    members = [*(replace(caption, **mixture) for mixture in mixtures), swapped]
    return [member for member in members if not held_out(member)]


class Pupil(nn.Module):
    """The CLIP with a classifier on its features, which speeds up training; only the CLIP is saved."""

    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        self.clip = clip
        self.sizes = [len(values) for values in ATTRIBUTES.values()]
        self.heads = nn.Linear(EMBEDDING, sum(self.sizes))
        self.contrast = ClipLoss()

    def loss(self, images: Tensor, ids: Tensor, labels: Tensor) -> Tensor:
        """CLIP's loss over the whole batch and the classifier's.

        Pictures (N, 3, 64, 64) in [-1, 1], token ids (N, 16), labels (N, 6).
        """
        with torch.autocast("cpu", torch.bfloat16):
            seen = self.clip.encode_image(roughen(images / 2 + 0.5) * 2 - 1)
            said = self.clip.encode_text(ids)
            logits = self.heads(seen).split(self.sizes, dim=1)
        # In float32: at a scale of 100 the similarities of bfloat16 features are too coarse.
        seen, said = (F.normalize(features.float(), dim=-1) for features in (seen, said))
        contrast: Tensor = self.contrast(seen, said, self.clip.logit_scale.exp())
        return contrast + classification_loss(logits, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the folder for checkpoints")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument(
        "--families", type=int, default=16, help="families of nine captions or fewer, in a batch"
    )
    parser.add_argument("--rate", type=float, default=2e-3)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    # On a CPU the fused attention is slow backwards.
    torch.backends.cuda.enable_flash_sdp(False)
    trained = [caption for caption in all_captions() if not held_out(caption)]
    test_captions, test_images = drawn(256, seed=31, unseen=True)

    folder = clip_shapes()
    tokenizer = write_config(folder)
    clip = CLIP(**get_model_config(f"local-dir:{folder}"))
    clip.visual.to(memory_format=torch.channels_last)
    pupil = Pupil(clip)
    optimizer = torch.optim.AdamW(
        pupil.parameters(), args.rate, betas=(0.9, 0.98), weight_decay=0.02, fused=True
    )
    run = Run(args.out / "clip.pt", pupil, [optimizer], decay=0.995)

    losses, start = [], time.time()
    for step in range(run.first, args.steps):
        rng = np.random.default_rng((7, step))
        torch.manual_seed(step)
        base = [trained[i] for i in rng.integers(len(trained), size=args.families)]
        captions = list(dict.fromkeys(member for caption in base for member in family(caption, rng)))
        images, ids = to_tensor(render(captions, rng)), tokenizer([caption.text for caption in captions])
        labels = torch.tensor([caption.labels for caption in captions])
        losses.append(run.gradients([partial(pupil.loss, images, ids, labels)]))
        run.update(step, rate(step, args.steps, warmup=100, decay_from=0.3))
        with torch.no_grad():
            clip.logit_scale.clamp_(max=LIMIT)
        last = step + 1 == args.steps
        if (step + 1) % 100 == 0 or last:
            log(f"clip {step + 1}/{args.steps} loss {np.mean(losses[-100:]):.3f} {time.time() - start:.0f} s")
            run.save(step + 1)
        if (step + 1) % 500 == 0 or last:
            random, near = clip_accuracy(run.average.module.clip, tokenizer, test_images, test_captions)
            scale = clip.logit_scale.exp().item()
            log(f"against nine others {random:.1%}, against the 29 neighbours {near:.1%}, scale {scale:.0f}")

    save_half(run.average.module.clip, folder / "open_clip_model.safetensors")


if __name__ == "__main__":
    main()
