"""Make the autoencoder: principal components of 8x8 pixels, written into the weights of Wan's autoencoder.

Nothing is trained here. The encoder projects each block of each frame on its first components, the decoder
puts them together again; everything between is the identity.
"""

import argparse
import math
from pathlib import Path

import torch
from clips_data import drawn, log, to_tensor
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanDecoder3d,
    WanEncoder3d,
    patchify,
)
from torch import Tensor, nn

BLOCK = 8
CHANNELS, WIDTH = 24, 32
# One channel of the trunk holds a large constant: the norm before each head then divides all positions by the
# same number, and SiLU sees values so small that it halves them, to within a hundredth.
LARGE = 4000.0


def components(frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (192,), first components (24, 192) and their standard deviations, of blocks of frames."""
    blocks = patchify(frames, BLOCK).movedim(1, -1).flatten(0, -2).double()
    mean = blocks.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((blocks - mean).T))
    order = torch.arange(len(values) - 1, len(values) - 1 - CHANNELS, -1)
    return mean, vectors.T[order], values[order].sqrt()


def make_vae(mean: Tensor, basis: Tensor, std: Tensor) -> AutoencoderKLWan:
    """The autoencoder whose latents are the coordinates in `basis`; time is not compressed."""
    # Dividing by the deviation would make the faintest component as loud as the first; its root is between.
    scale = std.sqrt() * std.mean().sqrt()
    vae = AutoencoderKLWan(
        base_dim=WIDTH,
        z_dim=CHANNELS,
        dim_mult=[1],
        num_res_blocks=0,
        temperal_downsample=[],
        latents_mean=[0.0] * CHANNELS,
        latents_std=[round(value, 4) for value in scale.tolist()],
        in_channels=3 * BLOCK**2,
        out_channels=3 * BLOCK**2,
        patch_size=BLOCK,
        scale_factor_temporal=1,
        scale_factor_spatial=BLOCK,
    )
    for parameter in vae.parameters():
        nn.init.zeros_(parameter)
    for module in vae.modules():
        if hasattr(module, "gamma"):
            nn.init.ones_(module.gamma)
    encoder, decoder = vae.encoder, vae.decoder
    _set(encoder.conv_in, basis, -basis @ mean)
    _set_head(encoder, torch.eye(CHANNELS), torch.zeros(CHANNELS))
    # The second half of the encoder's output is the logarithm of the posterior's variance: none to speak of.
    vae.encoder.conv_out.bias.data[CHANNELS:] = -12.0
    _set(vae.quant_conv, torch.eye(2 * CHANNELS), torch.zeros(2 * CHANNELS))
    _set(vae.post_quant_conv, torch.eye(CHANNELS), torch.zeros(CHANNELS))
    _set(decoder.conv_in, torch.eye(CHANNELS), torch.zeros(CHANNELS))
    _set_head(decoder, basis.T, mean)
    return vae.requires_grad_(False)


def _set(conv: nn.Conv3d, matrix: Tensor, bias: Tensor) -> None:
    """Let the kernel see its own position and the present frame alone (the convolutions are causal)."""
    rows, columns = matrix.shape
    last, middle = conv.weight.shape[2] - 1, conv.weight.shape[3] // 2
    conv.weight.data[:rows, :columns, last, middle, middle] = matrix.to(conv.weight.dtype)
    conv.bias.data[: len(bias)] = bias.to(conv.bias.dtype)


def _set_head(part: WanEncoder3d | WanDecoder3d, matrix: Tensor, bias: Tensor) -> None:
    part.conv_in.bias.data[CHANNELS] = LARGE
    _set(part.conv_out, matrix * 2 * LARGE / math.sqrt(WIDTH), bias)


@torch.no_grad()
def psnr(vae: AutoencoderKLWan, frames: Tensor) -> float:
    """Mean peak signal-to-noise ratio of the reconstructions, in dB."""
    back = vae.decode(vae.encode(frames).latent_dist.mode()).sample
    return float((-10 * ((back - frames) / 2).square().mean((1, 2, 3, 4)).log10()).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=1500)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    vae = make_vae(*components(to_tensor(drawn(args.clips, seed=1)[1])))
    test = to_tensor(drawn(64, seed=2)[1])
    vae.save_pretrained(args.out / "vae")
    log(f"saved; {sum(p.numel() for p in vae.parameters())} weights, psnr {psnr(vae, test):.2f} dB")


if __name__ == "__main__":
    main()
