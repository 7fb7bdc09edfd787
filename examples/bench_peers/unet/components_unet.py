"""The pipeline's parts: a small UNet shaped like Stable Diffusion's; all else is the demo model's."""

import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import T5EncoderModel, T5Tokenizer

from dcache.demo.pipeline import model_path as demo_path

sys.path.append(str(Path(__file__).parents[2] / "demo_model"))  # its helpers are these scripts' helpers

MODEL_PATH = Path(__file__).with_name("model")


def make_unet() -> UNet2DConditionModel:
    """A fresh UNet that begins with zeros: four levels, the text enters at the two in the middle."""
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(48, 64, 96, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        # Despite its name the number of heads, one per level.
        attention_head_dim=(2, 2, 3, 3),
        cross_attention_dim=128,
        norm_num_groups=16,
    )
    for name, module in unet.named_modules():
        if name.endswith(("conv2", "proj_out", "conv_out")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return unet


def make_scheduler() -> DPMSolverMultistepScheduler:
    """Stable Diffusion's noise, brought down to no signal at its end, and therefore velocities."""
    return DPMSolverMultistepScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,  # the pipeline insists, though this spacing has no offset
    )


def load_text() -> tuple[T5Tokenizer, T5EncoderModel]:
    """The demo model's tokenizer and text encoder; the pipeline will hand the encoder the padding's mask."""
    encoder = T5EncoderModel.from_pretrained(demo_path() / "text_encoder").eval().requires_grad_(False)
    encoder.config.use_attention_mask = True
    return T5Tokenizer.from_pretrained(demo_path() / "tokenizer"), encoder


def load_vae() -> AutoencoderKL:
    """The demo model's autoencoder."""
    return AutoencoderKL.from_pretrained(demo_path() / "vae").to(memory_format=torch.channels_last)


def make_pipeline(unet: UNet2DConditionModel) -> StableDiffusionPipeline:
    """Assemble the pipeline around a trained UNet."""
    tokenizer, text_encoder = load_text()
    return StableDiffusionPipeline(
        vae=load_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


class MatrixMuon(torch.optim.Muon):
    """Muon that takes a convolution's weight too, as a matrix of shape (out, in * height * width)."""

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float) -> None:
        self.parameters = list(parameters)
        views = [p.detach().flatten(1) for p in self.parameters]
        super().__init__(views, rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")

    def step(self) -> None:
        for view, parameter in zip(self.param_groups[0]["params"], self.parameters, strict=True):
            view.grad = parameter.grad.flatten(1)
        super().step()


def make_optimizers(unet: nn.Module, muon_rate: float, adam_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' weights, in two halves for two threads; AdamW for everything else."""
    inner: list[nn.Parameter] = []
    rest: list[Tensor] = []
    for name, parameter in unet.named_parameters():
        (inner if "blocks." in name and parameter.ndim > 1 else rest).append(parameter)
    adam = torch.optim.AdamW(rest, adam_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    return [MatrixMuon(inner[::2], muon_rate), MatrixMuon(inner[1::2], muon_rate), adam]
