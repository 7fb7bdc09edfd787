"""Who is measured: dcache's methods, the hooks of the same kind that diffusers has, and neither."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peer import denoiser, restored
from peer_diffusers import Hooks

import dcache
from dcache.errors import DcacheError
from dcache.eval.entries import BenchEntry
from dcache.eval.specs import MethodEntry
from dcache.kernels import launch
from dcache.kernels.weighted_sum import blocks, reference

# One setting for both libraries: three computed from the start, then every fourth evaluation.
INTERVAL, WARMUP = 4, 3
NEWTON, TAYLORSEER, FBCACHE = "newton, trunk", "taylorseer, sublayers", "fbcache"
SUMS = ("auto", "off", "chain")
# Modules whose outputs diffusers' TaylorSeer forecasts, so that as much is left out as by dcache's sublayers.
# In Flux's fused blocks that is the last projection, and what feeds it is skipped.
FORECAST = [
    r"transformer_blocks\.\d+\.(attn|ff|ff_context)",
    r"single_transformer_blocks\.\d+\.proj_out",
    r"blocks\.\d+\.(attn1|attn2|ffn)",
]
SKIPPED = [r"single_transformer_blocks\.\d+\.(attn|proj_mlp)"]
Compile = dict[str, Any] | None


@dataclass(frozen=True)
class Plain(BenchEntry):
    """The pipeline as it is, its blocks compiled or not.

    Attributes:
        compile: arguments of `torch.compile`, None to leave the blocks alone.
    """

    compile: Compile = None

    @contextmanager
    def enabled(self, pipe: Any) -> Iterator[None]:
        """Compile the blocks as diffusers does, and take that off again."""
        with restored(pipe):
            compile_blocks(pipe, self.compile)
            yield


@dataclass(frozen=True)
class Ours(MethodEntry):
    """A method of dcache.

    Attributes:
        compile: as for `Plain`, through dcache.
        sums: how predictions are summed, one of `SUMS`.
    """

    compile: Compile = None
    sums: str = "auto"

    @contextmanager
    def enabled(self, pipe: Any) -> Iterator[None]:
        """As `dcache.enabled`, with other arithmetic where that is asked for."""
        compiling = False if self.compile is None else self.compile or True
        with summed(self.sums), dcache.enabled(pipe, self.method, compile=compiling):
            yield


@dataclass(frozen=True)
class Theirs(Hooks):
    """Hooks of diffusers.

    Attributes:
        compile: as for `Plain`.
    """

    compile: Compile = None

    @contextmanager
    def switched_on(self, pipe: Any) -> Iterator[None]:
        """Compile the blocks with the hooks on them."""
        with super().switched_on(pipe):
            compile_blocks(pipe, self.compile)
            yield

    def _config(self, pipe: Any, loop: Any) -> Any:
        config = super()._config(pipe, loop)
        if self.method == "TaylorSeerCache":
            # The first parameter's dtype, which the other bench takes, is float32 in Wan.
            config.taylor_factors_dtype = denoiser(pipe).dtype
        return config


def compile_blocks(pipe: Any, options: Compile) -> None:
    """Compile the repeated blocks by diffusers' own method, if there are options to do it with."""
    if options is not None:
        denoiser(pipe).compile_repeated_blocks(**options)


@contextmanager
def summed(how: str) -> Iterator[None]:
    """Let dcache sum its predictions so.

    Args:
        how: `auto` is what DCACHE_KERNELS says, `off` the torch references, `chain` an addition and a
            multiplication for each anchor in the tensors' own dtype, as one writes it in torch.

    Raises:
        DcacheError: it is none of these.
    """
    if how not in SUMS:
        raise DcacheError(f"sums must be one of {', '.join(SUMS)}, got {how!r}")
    mode, plain = launch.mode, (blocks.weighted_sum, reference.weighted_sum)
    try:
        if how != "auto":
            launch.mode = "off"
        if how == "chain":
            # Large sums go through the one, small ones to the other at once.
            blocks.weighted_sum = reference.weighted_sum = eager_chain
        yield
    finally:
        launch.mode, (blocks.weighted_sum, reference.weighted_sum) = mode, plain


def eager_chain(
    base: torch.Tensor | None,
    anchors: Sequence[Any],
    weights: Any,
    dtype: torch.dtype,
    *,
    gate: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """`weighted_sum`, term by term."""
    total = anchors[0] * weights[0]
    for anchor, weight in zip(anchors[1:], weights[1:], strict=True):
        total = total + anchor * weight
    total = total if gate is None else gate * total
    total = (total if base is None else base + total).to(dtype)
    return total if out is None else out.copy_(total)


def entrants(device: str, threshold: float, compile: Compile, guided: bool) -> list[BenchEntry]:
    """All entrants, the uncached pipeline first.

    Args:
        device: device of the model; on a GPU other implementations of the sums are measured too.
        threshold: threshold of First Block Cache, in both libraries.
        compile: arguments of `torch.compile` for the blocks, None for eager ones.
        guided: whether the denoiser is called for a second branch.
    """
    make = dcache.methods
    ours = {
        NEWTON: make.newton(interval=INTERVAL, warmup=WARMUP, last=False),
        TAYLORSEER: make.taylorseer(interval=INTERVAL, order=1, warmup=WARMUP),
        FBCACHE: make.fbcache(threshold=threshold),
    }
    entries: list[BenchEntry] = [Plain("uncached", "uncached", compile=compile)]
    entries += [Ours(name, name, method=method, compile=compile) for name, method in ours.items()]
    if compile is None:
        others = [how for how in SUMS[1:] if how == "chain" or launch.possible(torch.device(device))]
        entries += [
            Ours(f"{name}, {how}", f"{name}, {how}", method=ours[name], sums=how)
            for name in (NEWTON, TAYLORSEER)
            for how in others
        ]
    entries += [
        Theirs(
            name, name, library="diffusers", options=options, method=method, guided=guided, compile=compile
        )
        for name, method, options in _hooks(threshold)
    ]
    return entries


def _hooks(threshold: float) -> list[tuple[str, str, dict[str, Any]]]:
    often = {"cache_interval": INTERVAL, "disable_cache_before_step": WARMUP}
    sublayers = {"cache_identifiers": FORECAST, "skip_predict_identifiers": SKIPPED, "max_order": 1}
    return [
        ("diffusers TaylorSeer lite", "TaylorSeerCache", {**often, "use_lite_mode": True}),
        ("diffusers TaylorSeer", "TaylorSeerCache", {**often, **sublayers}),
        ("diffusers FirstBlockCache", "FirstBlockCache", {"threshold": threshold}),
    ]
