"""Train text encoder and transformer on latents by flow matching (velocity = noise - latents)."""

import argparse
import copy
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from clips_data import Run, drawn, load, log, rate, save, to_tensor
from components import TEXT_LENGTH, Denoiser, make_tokenizer
from diffusers import AutoencoderKLWan
from torch import Tensor
from transformers import T5Tokenizer

CHUNK = 2048
PIECE = 16
Batch = tuple[Tensor, Tensor, Tensor]


def tokens(tokenizer: T5Tokenizer, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids and mask, (N, 16) each."""
    text = tokenizer(texts, padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt")
    return text.input_ids, text.attention_mask


@torch.no_grad()
def encode(vae: AutoencoderKLWan, frames: Tensor) -> Tensor:
    """Normalised latents; safe to call in several threads."""
    vae = copy.copy(vae)  # its running features live on itself
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        latents = vae.encode(to_tensor(frames)).latent_dist.mode().float()
    mean, std = (
        torch.tensor(v)[:, None, None, None] for v in (vae.config.latents_mean, vae.config.latents_std)
    )
    return (latents - mean) / std


def chunk(vae: AutoencoderKLWan, tokenizer: T5Tokenizer, file: Path, seed: int) -> Batch:
    """Latents (CHUNK, 24, 9, 4, 4), token ids and mask (CHUNK, 16): a part of the training set, made once."""
    if not file.exists():
        captions, frames = drawn(CHUNK, seed)
        ids, mask = tokens(tokenizer, [caption.text for caption in captions])
        with ThreadPoolExecutor(2) as threads:
            parts = list(threads.map(partial(encode, vae), np.split(frames, CHUNK // 16)))
        save(file, {"x": torch.cat(parts), "ids": ids, "mask": mask})
    state = load(file) or {}
    return state["x"], state["ids"], state["mask"]


def times(n: int, generator: torch.Generator) -> Tensor:
    """Times in [0, 1]: logit-normal, leaning to noise, where place and path are decided; a tenth uniform."""
    t = torch.sigmoid(torch.randn(n, generator=generator) + 1.0)
    kind, u = torch.rand(2, n, generator=generator)
    return torch.where(kind < 0.1, u, t)


def loss_of(model: Denoiser, batch: Batch, empty: tuple[Tensor, Tensor], seed: int) -> Tensor:
    """Squared error of the velocity; a tenth of the captions is empty."""
    x, ids, mask = batch
    n = len(x)
    generator = torch.Generator().manual_seed(seed)
    t = times(n, generator)
    dropped = torch.rand(n, 1, generator=generator) < 0.1
    ids, mask = torch.where(dropped, empty[0], ids), torch.where(dropped, empty[1], mask)
    noise = torch.randn(x.shape, generator=generator)
    at = t[:, None, None, None, None]
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        velocity = model((1 - at) * x + at * noise, t, ids, mask)
    return (velocity.float() - (noise - x)).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="the folder in which make_vae.py left its result"
    )
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--muon-rate", type=float, default=4e-3)
    parser.add_argument("--adam-rate", type=float, default=1e-3)
    parser.add_argument(
        "--decay-from", type=float, default=0.5, help="share of the steps before the rate falls"
    )
    parser.add_argument("--grow-every", type=int, default=250, help="steps between new chunks of clips")
    parser.add_argument("--minutes", type=float, help="stop after so long; the rate falls by the clock then")
    args = parser.parse_args()
    torch.manual_seed(0)
    # On a CPU the plain attention is the fastest to train at this size: the fused one is slow backwards.
    torch.backends.cuda.enable_flash_sdp(False)

    vae = AutoencoderKLWan.from_pretrained(args.out / "vae")
    tokenizer = make_tokenizer()
    empty = tokens(tokenizer, [""])
    model = Denoiser(len(tokenizer))
    run = Run(args.out / "model.pt", model, model.optimizers(args.muon_rate, args.adam_rate), decay=0.99)

    chunks: list[Batch] = []
    losses: list[float] = []
    start = began = time.time()
    for step in range(run.first, args.steps):
        spent = (time.time() - began) / 60 / args.minutes if args.minutes else step / args.steps
        while len(chunks) < 1 + step // args.grow_every:
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
        run.update(
            step,
            min(1, (step + 1) / 60) * rate(round(1e4 * spent), 10000, warmup=1, decay_from=args.decay_from),
        )
        if (step + 1) % 25 == 0:
            speed = 25 * args.batch / (time.time() - start)
            recent = f"loss {np.mean(losses[-25:]):.4f} gradient {run.usual_norm:.3f}"
            log(f"model {step + 1}/{args.steps} {recent} {speed:.1f} clips/s")
            start = time.time()
        last = step + 1 == args.steps or spent >= 1
        if (step + 1) % 100 == 0 or last:
            run.save(step + 1)
        if last:
            break


if __name__ == "__main__":
    main()
