"""Caching beside a ControlNet, which is computed at every step: python examples/short/controlnet.py"""

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetPipeline,
    UNet2DConditionModel,
)

import dcache

WIDTHS = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}
BLOCKS = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "cross_attention_dim": 16}


def main() -> None:
    """A tiny one with random weights; yours: from_pretrained(..., controlnet=...)."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=8, **WIDTHS, **BLOCKS
    )
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16,))
    pipe = StableDiffusionControlNetPipeline(
        AutoencoderKL(), None, None, unet, control, DDIMScheduler(), None, None, requires_safety_checker=False
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    dcache.enable(pipe, "deepcache", interval=2)
    text, edges = torch.randn(2, 1, 4, 16), torch.rand(1, 3, 16, 16)
    pipe(prompt_embeds=text[0], negative_prompt_embeds=text[1], image=edges, num_inference_steps=6)
    print(dcache.stats(pipe))


if __name__ == "__main__":
    main()
