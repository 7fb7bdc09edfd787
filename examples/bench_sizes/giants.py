"""The models that are measured: real shapes from their published configurations, with random weights."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dcache.errors import DcacheError
from dcache.eval.formatting import size

# Beside the weights: activations, and room to remember something.
WORKING = 2 * 2**30


@dataclass(frozen=True)
class Giant:
    """A pipeline of diffusers whose VAE and text encoders are left out.

    Attributes:
        name: on the command line.
        title: for headings.
        pipeline, model, scheduler: classes of diffusers.
        config, scheduler_config: their arguments; what is not named is the class's default.
        options: of a call: steps, pixels, frames, guidance.
        text: shapes of the precomputed prompt embeddings, by argument.
        tiny, tiny_options, tiny_text: what `--tiny` has instead, to try everything on a CPU.
    """

    name: str
    title: str
    pipeline: str
    model: str
    scheduler: str
    config: dict[str, Any]
    scheduler_config: dict[str, Any]
    options: dict[str, Any]
    text: dict[str, tuple[int, ...]]
    tiny: dict[str, Any] = field(default_factory=dict)
    tiny_options: dict[str, Any] = field(default_factory=dict)
    tiny_text: dict[str, tuple[int, ...]] = field(default_factory=dict)


# FLUX.1-dev's transformer is diffusers' default but for the embedded guidance.
FLUX = Giant(
    "flux",
    "FLUX.1-dev",
    "FluxPipeline",
    "FluxTransformer2DModel",
    "FlowMatchEulerDiscreteScheduler",
    {"guidance_embeds": True},
    {"use_dynamic_shifting": True, "shift": 3.0},
    {"num_inference_steps": 28, "height": 1024, "width": 1024, "guidance_scale": 3.5},
    {"prompt_embeds": (1, 512, 4096), "pooled_prompt_embeds": (1, 768)},
    {
        "num_layers": 2,
        "num_single_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 32,
        "axes_dims_rope": (8, 12, 12),
        "joint_attention_dim": 32,
        "pooled_projection_dim": 16,
    },
    {"num_inference_steps": 6, "height": 64, "width": 64},
    {"prompt_embeds": (1, 8, 32), "pooled_prompt_embeds": (1, 16)},
)
# The scheduler is the repository's, with the shift that its card gives for 480p.
WAN = Giant(
    "wan",
    "Wan2.1-T2V-1.3B",
    "WanPipeline",
    "WanTransformer3DModel",
    "UniPCMultistepScheduler",
    {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960},
    {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
    {"num_inference_steps": 50, "height": 480, "width": 832, "num_frames": 81, "guidance_scale": 5.0},
    {"prompt_embeds": (1, 512, 4096), "negative_prompt_embeds": (1, 512, 4096)},
    {
        "num_layers": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 32,
        "ffn_dim": 128,
        "text_dim": 32,
        "freq_dim": 32,
    },
    {"num_inference_steps": 6, "height": 64, "width": 64, "num_frames": 5},
    {"prompt_embeds": (1, 8, 32), "negative_prompt_embeds": (1, 8, 32)},
)
GIANTS = {giant.name: giant for giant in (FLUX, WAN)}


@dataclass
class Loaded:
    """A pipeline ready to be called.

    Attributes:
        options: of every call, as the settings that a figure depends on.
        text: the prompt embeddings.
    """

    giant: Giant
    pipe: Any
    options: dict[str, Any]
    text: dict[str, torch.Tensor]

    @property
    def module(self) -> nn.Module:
        """The denoiser."""
        return self.pipe.transformer

    @property
    def steps(self) -> int:
        """Evaluations of a whole run."""
        return self.options["num_inference_steps"]

    def __call__(self, steps: int | None = None) -> torch.Tensor:
        """One run from the noise of seed 0; returns the last latents, on the CPU."""
        options = self.options | ({} if steps is None else {"num_inference_steps": steps})
        noise = torch.Generator().manual_seed(0)
        output = self.pipe(**self.text, **options, generator=noise, output_type="latent")
        return (output.images if hasattr(output, "images") else output.frames).float().cpu()


def load(giant: Giant, device: str, dtype: torch.dtype, tiny: bool, overrides: dict[str, int]) -> Loaded:
    """Make a giant on its device, with random weights.

    Args:
        giant: its description.
        device: device of the model.
        dtype: dtype of the weights; modules that diffusers loads in float32 are float32 here too.
        tiny: make a small model of the same structure.
        overrides: options of the call that replace the giant's.

    Raises:
        DcacheError: the memory is too small.
    """
    import diffusers

    kind = getattr(diffusers, giant.model)
    config = giant.config | (giant.tiny if tiny else {})
    check_room(giant.title, _weights(kind, config, dtype), _room(device), device)
    torch.manual_seed(0)
    with _made_as(dtype, device):
        module = kind(**config).eval().requires_grad_(False)
    _widen(module, getattr(module, "_keep_in_fp32_modules", None) or ())
    scheduler = getattr(diffusers, giant.scheduler)(**giant.scheduler_config)
    pipeline = getattr(diffusers, giant.pipeline)
    needed = [p.name for p in inspect.signature(pipeline).parameters.values() if p.default is p.empty]
    pipe = pipeline(**dict.fromkeys(needed) | {"transformer": module, "scheduler": scheduler})
    pipe.set_progress_bar_config(disable=True)
    random = torch.Generator().manual_seed(1)
    shapes = giant.tiny_text if tiny else giant.text
    text = {key: torch.randn(shape, generator=random).to(device, dtype) for key, shape in shapes.items()}
    options = giant.options | (giant.tiny_options if tiny else {})
    known = {key: value for key, value in overrides.items() if key in options}
    return Loaded(giant, pipe, options | known, text)


def check_room(title: str, weights: int, room: int, device: str) -> None:
    """Refuse a model that does not fit.

    Raises:
        DcacheError: it does not.
    """
    if weights + WORKING > room:
        raise DcacheError(
            f"{title} does not fit: its weights take {size(weights)}, {size(WORKING)} are kept for the work, "
            f"and {size(room)} are free on {device}. Free some, use another device, or try --tiny"
        )


def _weights(kind: Any, config: dict[str, Any], dtype: torch.dtype) -> int:
    with torch.device("meta"):
        model = kind(**config)
    return sum(p.numel() for p in model.parameters()) * dtype.itemsize


def _room(device: str) -> int:
    if device.startswith("cuda"):
        # What torch keeps of the model before is not free to the driver.
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def _made_as(dtype: torch.dtype, device: str) -> Iterator[None]:
    """New tensors are of this dtype and on this device: no copy of the weights is ever elsewhere."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def _widen(module: nn.Module, names: Any) -> None:
    """Keep the parts of these names in float32, as loading a checkpoint would."""
    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point() and not {*key.split(".")}.isdisjoint(names):
            tensor.data = tensor.data.float()
