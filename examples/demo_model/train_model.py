"""Train text encoder and transformer on latents by flow matching (velocity = noise - latents)."""

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import Run, drawn, load, log, rate, save, to_tensor
from components import TEXT_LENGTH, Denoiser, make_tokenizer
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import T5Tokenizer

CHUNK = 6144
PIECE = 16
Batch = tuple[Tensor, Tensor, Tensor]


def tokens(tokenizer: T5Tokenizer, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids and mask, (N, 16) each."""
    text = tokenizer(texts, padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt")
    return text.input_ids, text.attention_mask


@torch.no_grad()
def chunk(vae: AutoencoderKL, tokenizer: T5Tokenizer, file: Path, seed: int) -> Batch:
    """Latents (CHUNK, 4, 16, 16), token ids and mask (CHUNK, 16): a part of the training set, made once."""
    if not file.exists():
        captions, images = drawn(CHUNK, seed)
        ids, mask = tokens(tokenizer, [caption.text for caption in captions])
        with torch.autocast("cpu", torch.bfloat16):
            parts = [
                vae.encode(to_tensor(images[i : i + 64])).latent_dist.mode() for i in range(0, CHUNK, 64)
            ]
        save(file, {"x": torch.cat(parts).float() * vae.config.scaling_factor, "ids": ids, "mask": mask})
    state = load(file) or {}
    return state["x"], state["ids"], state["mask"]


def times(n: int, generator: torch.Generator) -> Tensor:
    """Times in [0, 1]: logit-normal, but a quarter within 0.1 of pure noise and a tenth uniform.

    Only close to pure noise must the caption tell which colour is the background's: later the latents do.
    """
    t = torch.sigmoid(torch.randn(n, generator=generator))
    kind, u = torch.rand(2, n, generator=generator)
    t = torch.where(kind < 0.35, u, t)
    return torch.where(kind < 0.25, 1 - 0.1 * u**2, t)


def loss_of(model: Denoiser, batch: Batch, empty: tuple[Tensor, Tensor], seed: int) -> Tensor:
    """Squared error of the velocity; a tenth of the captions is empty."""
    x, ids, mask = batch
    n = len(x)
    generator = torch.Generator().manual_seed(seed)
    t = times(n, generator)
    dropped = torch.rand(n, 1, generator=generator) < 0.1
    ids, mask = torch.where(dropped, empty[0], ids), torch.where(dropped, empty[1], mask)
    noise = torch.randn(x.shape, generator=generator)
    at = t[:, None, None, None]
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        velocity = model((1 - at) * x + at * noise, t, ids, mask)
    return (velocity.float() - (noise - x)).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="the folder in which train_vae.py left its result"
    )
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--muon-rate", type=float, default=3e-3)
    parser.add_argument("--adam-rate", type=float, default=8e-4)
    parser.add_argument(
        "--decay-from", type=float, default=0.5, help="share of the steps before the rate falls"
    )
    parser.add_argument("--grow-every", type=int, default=400, help="steps between new chunks of pictures")
    args = parser.parse_args()
    torch.manual_seed(0)
    # On a CPU the plain attention is the fastest to train at this size: the fused one is slow backwards.
    torch.backends.cuda.enable_flash_sdp(False)

    vae = AutoencoderKL.from_pretrained(args.out / "vae").to(memory_format=torch.channels_last)
    tokenizer = make_tokenizer()
    empty = tokens(tokenizer, [""])
    model = Denoiser(len(tokenizer))
    run = Run(args.out / "model.pt", model, model.optimizers(args.muon_rate, args.adam_rate), decay=0.996)

    chunks: list[Batch] = []
    losses: list[float] = []
    start = time.time()
    for step in range(run.first, args.steps):
        while len(chunks) < 2 + step // args.grow_every:
            index = len(chunks)
            chunks.append(chunk(vae, tokenizer, args.out / f"latents_{index}.pt", seed=100 + index))
        rng = np.random.default_rng((4, step))
        x, ids, mask = chunks[rng.integers(len(chunks))]
        rows = torch.from_numpy(rng.integers(CHUNK, size=args.batch))
        pieces = [
            partial(loss_of, model, (x[part], ids[part], mask[part]), empty, seed=1000 * step + i)
            for i, part in enumerate(rows.split(PIECE))
        ]
        losses.append(run.gradients(pieces))
        run.update(step, rate(step, args.steps, warmup=60, decay_from=args.decay_from))
        if (step + 1) % 25 == 0:
            speed = 25 * args.batch / (time.time() - start)
            recent = f"loss {np.mean(losses[-25:]):.4f} gradient {run.usual_norm:.3f}"
            log(f"model {step + 1}/{args.steps} {recent} {speed:.1f} pictures/s")
            start = time.time()
        if (step + 1) % 100 == 0 or step + 1 == args.steps:
            run.save(step + 1)


if __name__ == "__main__":
    main()
