"""Train the autoencoder: 64x64 pictures to 16x16x4 latents and back."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Run, drawn, log, rate, to_tensor
from diffusers import AutoencoderKL
from torch import Tensor

KL_WEIGHT = 1e-4


def make_vae() -> AutoencoderKL:
    """A fresh autoencoder: factor 4, four latent channels, no attention, light to decode."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=64,
    )


def draw(images: Any, rng: np.random.Generator, *, crop: bool) -> Tensor:
    """A batch: 64 crops of 32x32, or 16 whole pictures; the normalisation layers must see both."""
    if not crop:
        return to_tensor(images[rng.integers(len(images), size=16)])
    corners = zip(rng.integers(len(images), size=64), *rng.integers(33, size=(2, 64)), strict=True)
    return to_tensor(np.stack([images[i, y : y + 32, x : x + 32] for i, y, x in corners]))


def loss_of(vae: AutoencoderKL, x: Tensor) -> Tensor:
    """Reconstruction (absolute and squared) plus a light pull of the latents to a normal distribution."""
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(x).latent_dist
        error = vae.decode(posterior.sample()).sample.float() - x
    return error.abs().mean() + 2 * error.square().mean() + KL_WEIGHT * posterior.kl().mean() / 1024


@torch.no_grad()
def psnr(vae: AutoencoderKL, images: Any) -> float:
    """Mean peak signal-to-noise ratio of the float32 reconstructions, in dB."""
    x = to_tensor(images)
    y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
    return float((-10 * ((y - x) / 2).square().mean((1, 2, 3)).log10()).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1800)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    images, test = drawn(8192, seed=1)[1], drawn(64, seed=2)[1]

    vae = make_vae().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(vae.parameters(), 2e-3, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    run = Run(args.out / "vae.pt", vae, [optimizer], decay=0.995)
    for step in range(run.first, args.steps):
        x = draw(images, np.random.default_rng((3, step)), crop=step < 0.6 * args.steps)
        loss = run.gradients([partial(loss_of, vae, part) for part in x.split(len(x) // 4)])
        run.update(step, rate(step, args.steps, warmup=50))
        if (step + 1) % 100 == 0:
            quality = psnr(run.average.module, test)
            log(f"vae {step + 1}/{args.steps} loss {loss:.4f} psnr {quality:.2f} dB")
            run.save(step + 1)

    vae.load_state_dict(run.average.module.state_dict())
    with torch.no_grad():
        std = vae.encode(to_tensor(images[:512])).latent_dist.mode().std().item()
    vae.register_to_config(scaling_factor=round(1 / std, 4))
    vae.save_pretrained(args.out / "vae")
    log(f"saved; latent std {std:.3f}, psnr {psnr(vae, test):.2f} dB")


if __name__ == "__main__":
    main()
