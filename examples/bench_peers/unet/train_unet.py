"""Train the UNet on the demo model's latents and its frozen text encoder, to predict the velocity."""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from components_unet import load_text, load_vae, make_optimizers, make_scheduler, make_unet
from torch import Tensor, nn

from common import Run, log, rate  # isort: skip  (components_unet shows where it is)
from train_model import CHUNK, Batch, chunk, tokens  # isort: skip

PIECE = 32


def timesteps(n: int, generator: torch.Generator) -> Tensor:
    """Timesteps (n,) spread evenly, but one in six from the noisiest tenth, which the caption decides."""
    u = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
    noisiest = torch.rand(n, generator=generator) < 1 / 6
    return (1000 * torch.where(noisiest, 0.9 + 0.1 * u, u)).long()


def loss_of(
    unet: nn.Module, encode: Callable[[Tensor, Tensor], Tensor], signal_share: Tensor, batch: Batch, seed: int
) -> Tensor:
    """Squared error of the velocity; `signal_share` (1000,) is alpha-bar of each timestep."""
    x, ids, mask = batch
    generator = torch.Generator().manual_seed(seed)
    t = timesteps(len(x), generator)
    noise = torch.randn(x.shape, generator=generator)
    signal, spread = (part.sqrt()[:, None, None, None] for part in (signal_share[t], 1 - signal_share[t]))
    noisy = signal * x + spread * noise
    velocity = unet(noisy, t, encode(ids, mask), return_dict=False)[0]
    return (velocity - (signal * noise - spread * x)).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a folder for checkpoints and latents")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--muon-rate", type=float, default=3e-3)
    parser.add_argument("--adam-rate", type=float, default=1e-3)
    parser.add_argument("--decay-from", type=float, default=0.5, help="share of the steps at the peak rate")
    parser.add_argument("--grow-every", type=int, default=800, help="steps between new chunks of pictures")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    # On a CPU the plain attention is the fastest to train at this size: the fused one is slow backwards.
    torch.backends.cuda.enable_flash_sdp(False)

    vae, (tokenizer, encoder), signal_share = load_vae(), load_text(), make_scheduler().alphas_cumprod
    empty = tokens(tokenizer, [""])
    unet = make_unet()
    run = Run(args.out / "unet.pt", unet, make_optimizers(unet, args.muon_rate, args.adam_rate), decay=0.996)

    @torch.no_grad()
    def encode(ids: Tensor, mask: Tensor) -> Tensor:
        return encoder(ids, attention_mask=mask)[0]

    chunks: list[Batch] = []
    losses: list[float] = []
    start = time.time()
    for step in range(run.first, args.steps):
        while len(chunks) < 2 + step // args.grow_every:
            index = len(chunks)
            chunks.append(chunk(vae, tokenizer, args.out / f"latents_{index}.pt", seed=100 + index))
        rng = np.random.default_rng((5, step))
        x, ids, mask = chunks[rng.integers(len(chunks))]
        rows = torch.from_numpy(rng.integers(CHUNK, size=args.batch))
        dropped = torch.from_numpy(rng.random((args.batch, 1)) < 0.1)
        batch = x[rows], torch.where(dropped, empty[0], ids[rows]), torch.where(dropped, empty[1], mask[rows])
        pieces = [
            partial(loss_of, unet, encode, signal_share, piece, seed=1000 * step + i)
            for i, piece in enumerate(zip(*(part.split(PIECE) for part in batch), strict=True))
        ]
        losses.append(run.gradients(pieces))
        run.update(step, rate(step, args.steps, warmup=60, decay_from=args.decay_from))
        if (step + 1) % 25 == 0:
            speed = 25 * args.batch / (time.time() - start)
            recent = f"loss {np.mean(losses[-25:]):.4f} gradient {run.usual_norm:.3f}"
            log(f"unet {step + 1}/{args.steps} {recent} {speed:.1f} pictures/s")
            start = time.time()
        if (step + 1) % 100 == 0 or step + 1 == args.steps:
            run.save(step + 1)


if __name__ == "__main__":
    main()
