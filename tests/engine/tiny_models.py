"""Tiny models and pipelines for the engine's tests: some answer in integers, some are diffusers' own."""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

import dcache
from dcache.engine.session import Session, session_of

STEPS = 6


class OutOfSight:
    """A number or list of a module that no snapshot of it has, so that it counts replays as well."""

    def __init__(self) -> None:
        self.values: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()

    def __get__(self, owner: nn.Module, _: type | None = None) -> Any:
        return self.values.get(owner, 0)

    def __set__(self, owner: nn.Module, value: Any) -> None:
        self.values[owner] = value


class Double(nn.Module):
    """x -> 2x, with a weight so that copies can differ; counts its own runs."""

    runs = OutOfSight()

    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(factor), requires_grad=False)
        self.runs = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Compiled, guards would hold on to counters of modules that are gone before they are checked.
        if not torch.compiler.is_compiling():
            self.runs += 1
        return x * self.weight


class Toy(nn.Module):
    """(x + timestep) through a list of blocks."""

    def __init__(self, blocks: Sequence[nn.Module] | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Double() for _ in range(3)] if blocks is None else blocks)
        self.eval()

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        x = x + timestep
        for block in self.blocks:
            x = block(x)
        return x


class Projection(Double):
    """x -> 2x, and looks like a linear map of these widths."""

    def __init__(self, into: int = 1, out: int = 1) -> None:
        super().__init__()
        self.in_features, self.out_features = into, out


class Attention(Double):
    """x -> 2x, and looks like attention: its projections are there and do nothing."""

    def __init__(self, cross: bool = False) -> None:
        super().__init__()
        self.is_cross_attention = cross
        self.to_q, self.to_k = Projection(), Projection()


class FeedForward(Double):
    """x -> 2x, and looks like an MLP beside attention of width 1."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = Projection(1, 4), Projection(4, 1)


class ThreeSublayers(nn.Module):
    """h -> h + 2 h + 2 h + 2 h through self-attention, cross-attention and an MLP, found by structure."""

    def __init__(self) -> None:
        super().__init__()
        self.attn1, self.attn2, self.ff = Attention(), Attention(cross=True), FeedForward()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.attn1(x) + self.attn2(x) + self.ff(x)


class Meeting(nn.Module):
    """h -> h + 2 (2 h + 2 h): attention and MLP meet in one projection, found by structure."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.proj_mlp, self.act_mlp = Attention(), Projection(1, 4), nn.ReLU()
        self.proj_out = Projection(5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.proj_out(self.attn(x) + self.act_mlp(self.proj_mlp(x)))


class Mix(nn.Module):
    """A block with weights of its own on (batch, tokens, 4)."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.lin = nn.Linear(width, width).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.lin(x))


class Countdown:
    """A sampler of whole timesteps, down to 1, that leaves the latents as they are."""

    def __init__(self) -> None:
        self.timesteps: list[float] = []

    def set_timesteps(self, steps: int) -> None:
        self.timesteps = [float(t) for t in range(steps, 0, -1)]

    def step(self, output: torch.Tensor, timestep: float, x: torch.Tensor) -> torch.Tensor:
        return x


class BarePipe:
    """A pipeline's loop that says neither when it begins nor when it is over.

    The denoisers take turns in equal shares. What they gave is in `outputs`, one for each evaluation.
    """

    def __init__(self, *denoisers: nn.Module, sampler: Any = None) -> None:
        self.scheduler = Countdown() if sampler is None else sampler
        self.names = [f"denoiser_{i}" if i else "denoiser" for i in range(len(denoisers))]
        for name, denoiser in zip(self.names, denoisers, strict=True):
            setattr(self, name, denoiser)
        self.outputs: list[torch.Tensor] = []

    def __call__(self, steps: int = STEPS, at_step: Callable[[int], None] | None = None) -> list[float]:
        """Every evaluation's output, the number that it is filled with; `at_step(i)` runs behind each."""
        x, self.outputs = torch.ones(1, 2, 4), []
        self.scheduler.set_timesteps(steps)
        self.begin()
        for i, t in enumerate(self.scheduler.timesteps):
            denoiser = getattr(self, self.names[i * len(self.names) // steps])
            self.outputs += walk(denoiser, [t], x)
            self.scheduler.step(self.outputs[-1], t, x)
            if at_step is not None:
                at_step(i)
        self.end()
        return [float(output.flatten()[0]) for output in self.outputs]

    def begin(self) -> None:
        """Nothing here."""

    def end(self) -> None:
        """Nothing here."""


class ToyPipe(BarePipe):
    """The same with the two methods that begin and end a call of diffusers' pipelines."""

    def __init__(self, *denoisers: nn.Module, sampler: Any = None) -> None:
        super().__init__(*denoisers, sampler=sampler)
        self.begun = self.freed = 0

    def begin(self) -> None:
        self.progress_bar()

    def end(self) -> None:
        self.maybe_free_model_hooks()

    def progress_bar(self) -> None:
        self.begun += 1

    def maybe_free_model_hooks(self) -> None:
        self.freed += 1


def walk(module: nn.Module, times: Sequence[Any], x: torch.Tensor | None = None, **more: Any) -> list[Any]:
    """Call the module once per timestep with the same input, without gradients."""
    x = torch.ones(1, 2, 4) if x is None else x
    with torch.no_grad():
        return [module(x, t, **more) for t in times]


def steps(
    module: nn.Module, times: Sequence[Any], first: int = 0, branch: str | None = None, **more: Any
) -> list[Any]:
    """Call the module once per timestep, each said to be the next evaluation, from `first` on."""
    outputs = []
    for i, time in enumerate(times, first):
        dcache.step(module, i, branch=branch)
        outputs += walk(module, [time], **more)
    return outputs


def session_on(module: nn.Module, method: Any, **options: Any) -> Session:
    """Enable a method on a module; the session behind it."""
    session = session_of(dcache.enable(module, method, **options))
    assert session is not None
    return session


def integers(outputs: Sequence[torch.Tensor]) -> list[float]:
    """The single value each output is filled with."""
    for output in outputs:
        assert bool((output == output.flatten()[0]).all())
    return [float(output.flatten()[0]) for output in outputs]


def flux_model(layers: int = 2, single: int = 2, seed: int = 0, guidance: bool = False) -> Any:
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(seed)
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=layers,
        num_single_layers=single,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=guidance,
    ).eval()


def flux_inputs(batch: int = 1) -> dict[str, Any]:
    g = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(batch, 16, 4, generator=g),
        "encoder_hidden_states": torch.randn(batch, 5, 16, generator=g),
        "pooled_projections": torch.randn(batch, 16, generator=g),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(5, 3),
        "return_dict": False,
    }


def flux_loop(model: nn.Module, steps: int = STEPS, **more: Any) -> torch.Tensor:
    """A hand-written Euler loop over a tiny Flux; a list or callable in `more` gives one value per step."""
    inputs = flux_inputs()
    x = inputs.pop("hidden_states")
    with torch.no_grad():
        for i in range(steps):
            now = {k: v(i) if callable(v) else v for k, v in more.items()}
            v = model(hidden_states=x, timestep=torch.tensor([1 - i / steps]), **inputs, **now)[0]
            x = x - v / steps
    return x


def flux_pipe(seed: int = 0, layers: int = 2, single: int = 2) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    pipe = FluxPipeline(
        FlowMatchEulerDiscreteScheduler(),
        vae=None,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=flux_model(layers, single, seed),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def flux_run(pipe: Any, steps: int = STEPS, **more: Any) -> torch.Tensor:
    inputs = flux_inputs()
    return pipe(
        prompt_embeds=inputs["encoder_hidden_states"],
        pooled_prompt_embeds=inputs["pooled_projections"],
        height=64,
        width=64,
        num_inference_steps=steps,
        output_type="latent",
        generator=torch.Generator().manual_seed(3),
        **more,
    ).images


def unet(seed: int = 0) -> Any:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()


def sd_pipe(seed: int = 0, controlnet: bool = False) -> Any:
    from diffusers import (
        ControlNetModel,
        DDIMScheduler,
        StableDiffusionControlNetPipeline,
        StableDiffusionPipeline,
    )

    model = unet(seed)
    parts = {
        "vae": None,
        "text_encoder": None,
        "tokenizer": None,
        "unet": model,
        "scheduler": DDIMScheduler(steps_offset=1, clip_sample=False),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    if controlnet:
        control = ControlNetModel.from_unet(model, conditioning_channels=3).eval()
        torch.manual_seed(seed + 1)
        for layer in (*control.controlnet_down_blocks, control.controlnet_mid_block):
            nn.init.normal_(layer.weight, std=0.5)
        pipe: Any = StableDiffusionControlNetPipeline(controlnet=control, **parts)
    else:
        pipe = StableDiffusionPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd_run(pipe: Any, steps: int = STEPS, **more: Any) -> torch.Tensor:
    g = torch.Generator().manual_seed(2)
    options = {"guidance_scale": 3.0, "height": 64, "width": 64, **more}
    return pipe(
        prompt_embeds=torch.randn(1, 5, 16, generator=g),
        negative_prompt_embeds=torch.randn(1, 5, 16, generator=g),
        num_inference_steps=steps,
        output_type="latent",
        generator=g,
        **options,
    ).images
