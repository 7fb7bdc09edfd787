"""Four shapes of denoiser in their real diffusers pipelines, with parts so small that a run takes a blink.

PixArt: cross-attention blocks, guidance in one batch. Flux: two block lists, text and image streams, a
concatenation seam, sequential guidance. SD: a UNet. Wan: video, sequential guidance under cache contexts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import nn

from tests.builders import Call, embeds, generator, inputs, masks, model, pipeline, prompts, sampler, scales

# Nothing here needs the network; the pipelines ask Hugging Face's hub only when they are loaded by name.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

STEPS = 7


@dataclass(frozen=True, eq=False)
class Shape:
    """One pipeline family.

    Attributes:
        model: builds the denoiser from a seed.
        pipeline: builds the pipeline around a denoiser and a sampler.
        inputs: arguments of a pipeline call, without steps and guidance.
        samplers: name -> how to build it; the first is the usual one.
        guidance: mode -> arguments of the pipeline call; the first is the usual one.
        part: the attribute of the pipeline that holds the denoiser.
        depth: number of blocks in the trunk, 0 for the UNet.
        skips: number of brackets.
        lists: attributes of the denoiser that hold the trunk's blocks.
        sublayers: kinds of sublayer sites that are declared for its blocks.
        alone: guidance modes whose two outputs the site `guidance` cannot tell apart.
    """

    name: str
    model: Callable[[int], nn.Module]
    pipeline: Callable[[nn.Module, Any], Any]
    inputs: Callable[[int], Call]
    samplers: Mapping[str, Callable[[], Any]]
    guidance: Mapping[str, Callable[[], Call]]
    part: str = "transformer"
    depth: int = 0
    skips: int = 0
    lists: tuple[str, ...] = ("transformer_blocks", "single_transformer_blocks", "blocks")
    sublayers: tuple[str, ...] = ("attn", "mlp")
    alone: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    def build(self, sampler: str = "", seed: int = 0, model: nn.Module | None = None) -> Any:
        """A pipeline of its own, in eval mode, silent."""
        made = self.samplers[sampler or next(iter(self.samplers))]()
        pipe = self.pipeline(self.model(seed) if model is None else model, made)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def denoiser(self, pipe: Any) -> nn.Module:
        """The module that caching is enabled on."""
        return getattr(pipe, self.part)

    def blocks(self, pipe: Any) -> list[nn.Module]:
        """The trunk."""
        model = self.denoiser(pipe)
        return [block for name in self.lists for block in getattr(model, name, ())]

    def arguments(self, guidance: str = "", seed: int = 1, **over: Any) -> Call:
        """Arguments of one pipeline call."""
        mode = self.guidance[guidance or next(iter(self.guidance))]()
        own = {"num_inference_steps": STEPS, "output_type": "latent", "generator": generator(seed + 100)}
        return {**self.inputs(seed), **own, **mode, **over}

    def run(self, pipe: Any, guidance: str = "", seed: int = 1, **over: Any) -> torch.Tensor:
        """The final latents of one pipeline call; equal seeds give equal calls."""
        result = pipe(**self.arguments(guidance, seed, **over))
        return next(iter(result.values()))


def at_step_end(shape: Shape, act: Callable[[int], None]) -> Call:
    """Call arguments that run `act(i)` at the end of every sampler step, as this pipeline spells it."""
    if shape.name == "pixart":
        return {"callback": lambda i, t, latents: act(i), "callback_steps": 1}

    def callback(pipe: Any, i: int, t: Any, tensors: Call) -> Call:
        act(i)
        return tensors

    return {"callback_on_step_end": callback}


class Acting:
    """A step that does something before; a copy of the sampler (LTX2 makes one) has its own step."""

    def __init__(self, sampler: Any, act: Callable[[], None]) -> None:
        self.sampler, self.act = sampler, act
        self.__wrapped__ = sampler.step

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.act()
        return self.__wrapped__(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return MethodType(type(self.sampler).step, memo[id(self.sampler)])


def before_step(pipe: Any, act: Callable[[], None]) -> None:
    """Let the pipeline's sampler do something before every step: what a run holds is freed after the last."""
    pipe.scheduler.step = Acting(pipe.scheduler, act)


def _guidance_between(first: int, last: int, batched: bool) -> Callable[[], Call]:
    """Guidance is off from the end of step `first` to the end of step `last`."""

    def make() -> Call:
        kept: dict[str, torch.Tensor] = {}

        def callback(pipe: Any, i: int, t: Any, tensors: Call) -> Call:
            if i == first:
                pipe._guidance_scale = 1.0
                if batched:
                    kept["both"] = tensors["prompt_embeds"]
                    tensors["prompt_embeds"] = kept["both"].chunk(2)[1]
            if i == last:
                pipe._guidance_scale = 3.0
                if batched:
                    tensors["prompt_embeds"] = kept["both"]
            return tensors

        return {
            "guidance_scale": 3.0,
            "callback_on_step_end": callback,
            "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"] if batched else ["latents"],
        }

    return make


pixart_model = model(
    "PixArtTransformer2DModel",
    num_attention_heads=2,
    attention_head_dim=8,
    in_channels=4,
    out_channels=8,
    num_layers=3,
    cross_attention_dim=16,
    sample_size=8,
    caption_channels=12,
)
flux_model = model(
    "FluxTransformer2DModel",
    patch_size=1,
    in_channels=64,
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=8,
    num_attention_heads=2,
    joint_attention_dim=12,
    pooled_projection_dim=8,
    axes_dims_rope=(2, 2, 4),
    guidance_embeds=False,
)
sd_model = model(
    "UNet2DConditionModel",
    sample_size=8,
    in_channels=4,
    out_channels=4,
    layers_per_block=1,
    block_out_channels=(8, 16),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=12,
    attention_head_dim=4,
    norm_num_groups=4,
)
WAN_SIZES: Call = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 12,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 3,
    "rope_max_seq_len": 32,
}
wan_model = model("WanTransformer3DModel", patch_size=(1, 2, 2), **WAN_SIZES)
flux_inputs = inputs({"prompt_embeds": (5, 12), "pooled_prompt_embeds": (8,)})
wan_inputs = inputs(prompts(5, 12), 32, num_frames=5)


def flux_true_cfg() -> Call:
    return {
        "true_cfg_scale": 3.0,
        "negative_prompt_embeds": embeds(8, 5, 12),
        "negative_pooled_prompt_embeds": embeds(9, 8),
    }


# Stable Diffusion's pipeline warns of samplers that do not begin their timesteps at 1.
NOISE_SAMPLERS = {
    "ddim": sampler("DDIMScheduler", steps_offset=1, clip_sample=False),
    "euler": sampler("EulerDiscreteScheduler", steps_offset=1),
    "pndm": sampler("PNDMScheduler", steps_offset=1),
    "heun": sampler("HeunDiscreteScheduler", steps_offset=1),
    "dpm": sampler("DPMSolverMultistepScheduler", steps_offset=1),
}
FLOW_EULER = sampler("FlowMatchEulerDiscreteScheduler")
UNIPC = sampler(
    "UniPCMultistepScheduler", prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
)

PIXART = Shape(
    "pixart",
    pixart_model,
    pipeline("PixArtAlphaPipeline"),
    inputs(prompts(5, 12), **masks(torch.ones(1, 5)), negative_prompt=None, use_resolution_binning=False),
    NOISE_SAMPLERS,
    scales("batched"),
    depth=3,
)
FLUX = Shape(
    "flux",
    flux_model,
    pipeline("FluxPipeline"),
    flux_inputs,
    {"flow_euler": FLOW_EULER},
    {"off": dict, "sequential": flux_true_cfg},
    depth=4,
)
SD = Shape(
    "sd",
    sd_model,
    pipeline("StableDiffusionPipeline", "unet", requires_safety_checker=False),
    inputs(prompts(5, 12)),
    NOISE_SAMPLERS,
    {**scales("batched"), "part": _guidance_between(2, 4, batched=True)},
    part="unet",
    skips=4,
)
WAN = Shape(
    "wan",
    wan_model,
    pipeline("WanPipeline"),
    wan_inputs,
    {"unipc": UNIPC, "flow_euler": FLOW_EULER},
    {**scales("sequential"), "part": _guidance_between(2, 4, batched=False)},
    depth=3,
)
SHAPES = {shape.name: shape for shape in (PIXART, FLUX, SD, WAN)}
