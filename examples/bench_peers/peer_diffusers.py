"""diffusers' own hooks: FirstBlockCache, TaylorSeer, MagCache, FasterCache, PAB, SeaCache."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from peer import Peer, denoiser, guided, storage_bytes
from torch import nn

from dcache.errors import DcacheError
from dcache.eval.subject import Subject

LIBRARY = "diffusers"
# Pipelines that call the denoiser once for each branch of the guidance.
SEQUENTIAL = ("WanPipeline",)
# TaylorSeer's own pattern wants names that end in "attn"; these models' end in attn1, attn2, ff, ffn, or are
# a UNet's resnets and transformer blocks. Where no name fits it hooks nothing and says nothing (0.42.1).
UNET_PARTS = [
    r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.resnets\.\d+",
    r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.attentions\.\d+\.transformer_blocks\.\d+",
]
SUBLAYERS = [r"(transformer_)?blocks\.\d+\.(attn1|attn2|ff|ffn)", *UNET_PARTS]
# Its lite mode forecasts `proj_out` and empties the blocks: a UNet's counterpart, which it does not know.
UNET_LITE = {"cache_identifiers": ["conv_out"], "skip_predict_identifiers": UNET_PARTS}
# Of every method (label, options). Thirty-six in all.
SETTINGS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "FirstBlockCache": [
        (f"{threshold:g}", {"threshold": threshold})
        for threshold in (0.05, 0.08, 0.1, 0.12, 0.16, 0.2, 0.3, 0.4)
    ],
    "TaylorSeerCache": [
        *(
            (f"{n} order {order}", {"cache_interval": n, "max_order": order, "cache_identifiers": SUBLAYERS})
            for n in (2, 3, 4)
            for order in (1, 2)
        ),
        *((f"{n} lite", {"cache_interval": n, "use_lite_mode": True}) for n in (2, 3, 4, 5, 7, 9)),
    ],
    "MagCache": [
        (f"{threshold:g} K{run}", {"threshold": threshold, "max_skip_steps": run, "retention_ratio": first})
        for threshold, run, first in (
            (0.06, 3, 0.2),
            (0.03, 2, 0.1),
            (0.06, 2, 0.1),
            (0.12, 3, 0.1),
            (0.24, 4, 0.1),
            (0.5, 5, 0.1),
        )
    ],
    "FasterCache": [
        (
            f"{attention} {branch}",
            {
                "spatial_attention_block_skip_range": attention,
                "unconditional_batch_skip_range": branch,
                "spatial_attention_timestep_skip_range": (-1, below),
                "unconditional_batch_timestep_skip_range": (-1, below),
            },
        )
        for attention, branch, below in ((2, 5, 681), (2, 3, 901), (3, 5, 901))
    ],
    "PyramidAttentionBroadcast": [
        (
            f"{spatial} {cross}",
            {
                "spatial_attention_block_skip_range": spatial,
                "cross_attention_block_skip_range": cross,
                "spatial_attention_timestep_skip_range": window,
                "cross_attention_timestep_skip_range": window,
            },
        )
        for spatial, cross, window in ((2, 6, (100, 850)), (3, 6, (0, 950)), (4, 8, (0, 950)))
    ],
    "SeaCache": [
        (f"{threshold:g} K{run}", {"threshold": threshold, "max_consecutive_cached": run})
        for threshold, run in ((0.15, 2), (0.25, 2), (0.5, 3), (1.0, 4))
    ],
}


@dataclass(frozen=True)
class Hooks(Peer):
    """One of the hooks with these options of its configuration.

    Attributes:
        method: the configuration's class without `Config`.
        guided: whether there is a branch without the prompt.
    """

    method: str = ""
    guided: bool = False

    @contextmanager
    def switched_on(self, pipe: Any) -> Iterator[None]:
        """`enable_cache` where the model has it, else the function form, which `restored` undoes."""
        module = denoiser(pipe)
        loop = _Loop(pipe, sets_context=not hasattr(module, "enable_cache"))
        config = self._config(pipe, loop)
        hook = module.register_forward_pre_hook(loop, with_kwargs=True)
        try:
            if hasattr(module, "enable_cache"):
                module.enable_cache(config)
            else:
                _apply(module, config)
            yield
        finally:
            hook.remove()
            if getattr(module, "is_cache_enabled", False):
                module.disable_cache()

    def bytes_held(self, pipe: Any) -> int:
        """Of the states that its hooks keep."""
        registries = (m.__dict__.get("_diffusers_hook") for m in denoiser(pipe).modules())
        return storage_bytes(*(vars(hook) for r in registries if r for hook in r.hooks.values()))

    def _config(self, pipe: Any, loop: _Loop) -> Any:
        import diffusers.hooks

        options = dict(self.options)
        if self.method in ("FasterCache", "PyramidAttentionBroadcast"):
            if self.guided and type(pipe).__name__ in SEQUENTIAL:
                raise DcacheError(
                    f"{self.method} keeps one state for both branches of the guidance, and "
                    f"{type(pipe).__name__} calls its denoiser once for each"
                )
            options["current_timestep_callback"] = loop.timestep
        if self.method == "FasterCache":
            options["is_guidance_distilled"] = not self.guided
            options["tensor_format"] = "BCFHW" if type(pipe).__name__ in SEQUENTIAL else "BCHW"
        if self.method == "TaylorSeerCache":
            # As its documentation advises for precision; its default rounds to bfloat16.
            options["taylor_factors_dtype"] = next(denoiser(pipe).parameters()).dtype
            if hasattr(pipe, "unet") and options.pop("use_lite_mode", False):
                options |= UNET_LITE
        if self.method == "SeaCache" and loop.sets_context:
            options["raw_vision_callback"] = _latents
        return getattr(diffusers.hooks, f"{self.method}Config")(**options)


class _Loop:
    """A forward pre-hook that knows the step, for pipelines that do not tell their caches.

    diffusers asks whoever writes a loop to enter `cache_context(name, step_index=...)` around each denoiser
    call. PixArt's and Stable Diffusion's pipelines do not, and their models lack the method: this does it for
    them, with the function behind it. Both make one call for each step. Nor do their calls end with a reset
    of the hooks' states, as those of models that have the method do: this does that too.
    """

    def __init__(self, pipe: Any, sets_context: bool) -> None:
        self.pipe, self.sets_context, self.calls, self.now = pipe, sets_context, 0, None

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.now = kwargs["timestep"] if "timestep" in kwargs else args[1]
        if self.sets_context:
            from diffusers.hooks.hooks import CacheContext, HookRegistry, _set_cache_context

            if self.calls == len(self.pipe.scheduler.timesteps):
                self.calls = 0
                HookRegistry.check_if_exists_or_initialize(module).reset_stateful_hooks()

            scheduler = self.pipe.scheduler
            sigmas = getattr(scheduler, "sigmas", None)
            sigma = None if sigmas is None else float(sigmas[self.calls])
            context = CacheContext("inference", self.calls, len(scheduler.timesteps), sigma=sigma)
            _set_cache_context(module, context)
        self.calls += 1

    def timestep(self) -> float:
        """The denoiser's timestep."""
        return float(torch.as_tensor(self.now).flatten()[0])


def _apply(module: nn.Module, config: Any) -> None:
    from diffusers import hooks

    functions = {
        "FirstBlockCacheConfig": hooks.apply_first_block_cache,
        "TaylorSeerCacheConfig": hooks.apply_taylorseer_cache,
        "MagCacheConfig": hooks.apply_mag_cache,
        "FasterCacheConfig": hooks.apply_faster_cache,
        "PyramidAttentionBroadcastConfig": hooks.apply_pyramid_attention_broadcast,
        "SeaCacheConfig": hooks.apply_sea_cache,
    }
    functions[type(config).__name__](module, config)


def _latents(_: nn.Module, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """The latents of each picture, (channels, 1, height, width), which SeaCache compares."""
    latents = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
    return list(latents.unsqueeze(2).unbind())


def contestants(subject: Subject, prompts: Sequence[str]) -> list[Hooks]:
    """Thirty-six settings.

    Args:
        subject: the pipeline.
        prompts: for MagCache's own calibration, which runs here, once.
    """
    ratios = magnitude_ratios(subject, prompts)
    entries = []
    for method, settings in SETTINGS.items():
        for name, options in settings:
            measured = {"mag_ratios": ratios, "num_inference_steps": subject.steps}
            entries.append(
                _hooks(subject, method, name, options | (measured if method == "MagCache" else {}))
            )
    return entries


def magnitude_ratios(subject: Subject, prompts: Sequence[str]) -> list[float]:
    """The ratios that MagCache's calibration mode prints for its users; [1.0] if it cannot run.

    With two branches it prints two lists but accepts one: this returns the conditional branch's.
    """
    options = {"calibrate": True, "num_inference_steps": subject.steps}
    calibration = _hooks(subject, "MagCache", "calibration", options)
    printed = io.StringIO()
    with redirect_stdout(printed), calibration.enabled(subject.pipe):
        subject(prompts, [2**20 + i for i in range(len(prompts))])
    lists = [line for line in printed.getvalue().splitlines() if line.startswith("[") and line.endswith("]")]
    return json.loads(lists[0]) if lists else [1.0]


def _hooks(subject: Subject, method: str, name: str, options: dict[str, Any]) -> Hooks:
    label = f"{method} {name}"
    return Hooks(
        f"{LIBRARY}: {label}",
        label,
        library=LIBRARY,
        options=options,
        method=method,
        guided=guided(subject),
    )
