"""Train the autoencoder: 9 frames of 64x64 to latents of 3 frames, 4x4, 32 channels, and back."""

import argparse
import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clips_data import Run, drawn, log, rate, to_tensor
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResidualBlock
from torch import Tensor, nn

KL_WEIGHT = 2e-4
CHANNELS = 32


def make_vae(mean: float | list[float] = 0.0, std: float | list[float] = 1.0) -> AutoencoderKLWan:
    """A fresh Wan autoencoder: factor 4 in time and 16 in space, 4 of that by folding 4x4 pixels."""
    vae = AutoencoderKLWan(
        base_dim=24,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=mean if isinstance(mean, list) else [mean] * CHANNELS,
        latents_std=std if isinstance(std, list) else [std] * CHANNELS,
        in_channels=48,
        out_channels=48,
        patch_size=4,
        scale_factor_temporal=4,
        scale_factor_spatial=16,
    )
    # Residual branches begin at zero, and the latents with little noise: both are learnt faster so.
    for block in vae.modules():
        if isinstance(block, WanResidualBlock):
            nn.init.zeros_(block.conv2.weight)
            nn.init.zeros_(block.conv2.bias)
    nn.init.constant_(vae.quant_conv.bias[CHANNELS:], -5.0)
    return vae


class KernelMuon(torch.optim.Muon):
    """Muon for convolution kernels, each as a matrix with one row for every output channel."""

    def __init__(self, kernels: list[nn.Parameter], rate: float) -> None:
        self.kernels = kernels
        flat = [nn.Parameter(kernel.data.flatten(1)) for kernel in kernels]  # the same memory
        super().__init__(flat, rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")

    def step(self, closure: Any = None) -> Any:
        """Move the kernels by their own gradients."""
        for flat, kernel in zip(self.param_groups[0]["params"], self.kernels, strict=True):
            flat.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        return super().step(closure)


def optimizers(vae: AutoencoderKLWan, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the kernels, in two halves for two threads; AdamW for the rest."""
    kernels = [p for n, p in vae.named_parameters() if p.ndim >= 4 and n.endswith("weight")]
    chosen = set(map(id, kernels))
    rest = [p for p in vae.parameters() if id(p) not in chosen]
    return [
        KernelMuon(kernels[::2], rate),
        KernelMuon(kernels[1::2], rate),
        torch.optim.AdamW(rest, rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def draw(frames: Any, rng: np.random.Generator, *, crop: bool) -> Tensor:
    """A batch: 24 crops of 32x32 pixels, or 8 whole clips."""
    if not crop:
        return to_tensor(frames[rng.integers(len(frames), size=8)])
    corners = zip(
        rng.integers(len(frames), size=24),
        *rng.integers(33, size=(2, 24)),
        strict=True,
    )
    return to_tensor(np.stack([frames[i, :, y : y + 32, x : x + 32] for i, y, x in corners]))


def loss_of(vae: AutoencoderKLWan, x: Tensor) -> Tensor:
    """Reconstruction (absolute and squared) plus a light pull of the latents to a normal distribution."""
    # Wan's autoencoder keeps the running features of a call on itself; a shallow copy shares the weights alone.
    vae = copy.copy(vae)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        posterior = vae.encode(x).latent_dist
        error = vae.decode(posterior.sample()).sample.float() - x
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return error.abs().mean() + 2 * error.square().mean() + KL_WEIGHT * kl


@torch.no_grad()
def psnr(vae: AutoencoderKLWan, frames: Any) -> float:
    """Mean peak signal-to-noise ratio of the float32 reconstructions, in dB."""
    x = to_tensor(frames)
    y = vae.decode(vae.encode(x).latent_dist.mode()).sample
    return float((-10 * ((y - x) / 2).square().mean((1, 2, 3, 4)).log10()).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--rate", type=float, default=6e-3)
    parser.add_argument("--crops", type=float, default=0.85, help="share of the steps that see crops")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    frames, test = drawn(1024, seed=1)[1], drawn(16, seed=2)[1]

    vae = make_vae()
    run = Run(args.out / "vae.pt", vae, optimizers(vae, args.rate), decay=0.99)
    for step in range(run.first, args.steps):
        x = draw(frames, np.random.default_rng((3, step)), crop=step < args.crops * args.steps)
        loss = run.gradients([partial(loss_of, vae, part) for part in x.split(len(x) // 2)])
        run.update(step, rate(step, args.steps, warmup=40))
        if (step + 1) % 50 == 0:
            quality = psnr(run.average.module, test)
            log(f"vae {step + 1}/{args.steps} loss {loss:.4f} psnr {quality:.2f} dB")
            run.save(step + 1)

    vae.load_state_dict(run.average.module.state_dict())
    with torch.no_grad():
        parts = [vae.encode(to_tensor(frames[i : i + 16])).latent_dist.mode() for i in range(0, 512, 16)]
    latents = torch.cat(parts).transpose(0, 1).flatten(1)
    means, stds = ([round(v, 4) for v in values.tolist()] for values in (latents.mean(1), latents.std(1)))
    vae.register_to_config(latents_mean=means, latents_std=stds)
    vae.save_pretrained(args.out / "vae")
    log(f"saved; latent std {min(stds):.3f} to {max(stds):.3f}, psnr {psnr(vae, test):.2f} dB")


if __name__ == "__main__":
    main()
