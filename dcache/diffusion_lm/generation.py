"""`generate`: a decoding loop for masked-diffusion language models, with the method that is enabled."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn

from dcache.diffusion_lm import enabled, limits
from dcache.diffusion_lm.bind.choose import refuse_causal
from dcache.diffusion_lm.bind.plain import PlainBinding
from dcache.diffusion_lm.decoders.base import Decoder
from dcache.diffusion_lm.decoders.rules import make_decoder
from dcache.diffusion_lm.engine import Engine
from dcache.diffusion_lm.loop import Callback, Loop, Options
from dcache.diffusion_lm.method import RowMethod
from dcache.diffusion_lm.policies.none import none
from dcache.diffusion_lm.row_stats import RowStats
from dcache.diffusion_lm.run import Block, Run
from dcache.errors import DcacheError

_checked: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@torch.no_grad()
def generate(  # noqa: PLR0913 - the options of a decoding loop, all by keyword
    model: nn.Module,
    input_ids: torch.Tensor,
    *,
    max_new_tokens: int,
    block: int = 32,
    steps: int | None = None,
    decoder: str | Decoder = "low_confidence",
    threshold: float = 0.9,
    temperature: float = 0.0,
    seed: int = 0,
    attention_mask: torch.Tensor | None = None,
    mask_id: int | None = None,
    eos_id: int | None = None,
    guide: nn.Module | None = None,
    callback: Callback | None = None,
) -> torch.Tensor:
    """Decode masked tokens behind a prompt, block by block.

    The method that `dcache.enable` has put on the model is used; without one every step computes every row.
    Noise depends on seed, step, row and position alone, so cached and uncached runs of one seed compare.

    Args:
        model: a masked-diffusion language model, in evaluation mode.
        input_ids: int64 `[B, P]`.
        max_new_tokens: tokens to decode.
        block: tokens of a block; a method's own block takes its place.
        steps: forwards that the fixed schedule has for all blocks together; None for one token a step.
        decoder: "low_confidence", "random", "left", "threshold", "factor", "entropy_bound", "guided" or one
            of `dcache.diffusion_lm.decoders`.
        threshold: probability for "threshold".
        temperature: 0 takes the likeliest token.
        seed: of the noise.
        attention_mask: `[B, P]`, 0 for pads at the left.
        mask_id: id of the mask token; None for that of the method or the config.
        eos_id: a row ends where this token is decoded and nothing before it is masked.
        guide: for "guided", a small causal language model with the same tokens.
        callback: called after each step with its number, ids `[B, T]` and the rows bool `[B, T]` it computed.

    Returns:
        Int64 `[B, P + max_new_tokens]`; behind EOS everything is EOS.

    Raises:
        DcacheError: the model or an option does not fit; nothing ran then.
    """
    options = Options(
        max_new_tokens, block, steps, temperature, seed, attention_mask, mask_id, eos_id, callback
    )
    return _generate(model, input_ids, options, _decoder(decoder, threshold, guide))


def _generate(model: nn.Module, prompt: torch.Tensor, options: Options, decoder: Decoder) -> torch.Tensor:
    if not isinstance(model, nn.Module):
        raise DcacheError(
            f"model must be a masked-diffusion language model, got {type(model).__name__}: give a pipeline's "
            "model itself, pipe.model"
        )
    entry = enabled.find(model)
    method = none() if entry is None else entry.method
    mask_id = options.mask_id
    if mask_id is None and entry is not None:
        mask_id = entry.mask_id
    mask_id = limits.mask_of(model, method.mask_id if mask_id is None else mask_id)
    size = min(method.policy.block or options.block, options.new)
    blocks = -(-options.new // size)
    steps = options.steps
    if steps is not None and steps < blocks:
        raise DcacheError(
            f"steps={steps} are fewer than the {blocks} blocks of {size} tokens: give one a block"
        )
    real = _check(model, method, decoder, prompt, options, mask_id)
    run = _run(model, entry, method, prompt, real, size, options.new)
    loop = Loop(run, decoder, mask_id, size, options)
    return loop.decode(prompt)


def _decoder(decoder: str | Decoder, level: float, guide: nn.Module | None) -> Decoder:
    if decoder == "guided":
        from dcache.diffusion_lm.decoders.guided import guided

        return guided(guide)
    if guide is not None:
        raise DcacheError(f"guide= goes with decoder='guided', got decoder={decoder!r}")
    return make_decoder(decoder, level)


def _check(
    model: nn.Module,
    method: RowMethod,
    decoder: Decoder,
    ids: torch.Tensor,
    options: Options,
    mask_id: int,
) -> torch.Tensor:
    """Refuse what does not fit; returns bool `[B, P]`, prompt tokens that are no pads."""
    if not isinstance(ids, torch.Tensor) or ids.ndim != 2 or ids.dtype != torch.long or 0 in ids.shape:
        came = f"{tuple(ids.shape)} in {ids.dtype}" if isinstance(ids, torch.Tensor) else type(ids).__name__
        raise DcacheError(f"input_ids must be int64 [B, P] with at least one token, got {came}")
    limits.check_order(method, decoder)
    limits.check_model(model)
    real = _real(options.attention_mask, ids)
    limits.check_tokens(model, ids, mask_id, options.eos_id)
    limits.check_pads(model, mask_id, real)
    width = ids.shape[1] + options.new
    limits.check_width(model, width)
    if decoder.guide is model or enabled.find(decoder.guide) is not None:
        raise DcacheError(
            "guide must be a causal model, got a masked-diffusion one: it reads the draft from the left"
        )
    if decoder.guide is not None:
        limits.check_guide(decoder.guide, model, ids, mask_id, width)
    # Last, because it runs the model.
    if model not in _checked and enabled.find(model) is None:
        refuse_causal(model, model)
    _checked.add(model)
    return real


def _real(given: Any, ids: torch.Tensor) -> torch.Tensor:
    """Bool `[B, P]`: tokens that the caller's mask leaves.

    Raises:
        DcacheError: it is no mask of the ids with pads at the left alone.
    """
    if given is None:
        return torch.ones_like(ids, dtype=torch.bool)
    try:
        real = torch.as_tensor(given, device=ids.device) != 0
    except (TypeError, ValueError, RuntimeError):
        real = torch.zeros(0, dtype=torch.bool)
    if real.shape != ids.shape or bool((real[:, :-1] & ~real[:, 1:]).any()) or not bool(real[:, -1].all()):
        came = tuple(real.shape) if real.numel() else type(given).__name__
        raise DcacheError(
            f"attention_mask must be {tuple(ids.shape)} with pads at the left alone, and a token in each "
            f"row, got {came}"
        )
    return real


def _run(
    model: nn.Module,
    entry: enabled.Enabled | None,
    method: RowMethod,
    prompt: torch.Tensor,
    real: torch.Tensor,
    size: int,
    new: int,
) -> Run:
    engine = Engine(model, model, PlainBinding(model)) if entry is None else enabled.engine_of(model)
    B, P = prompt.shape
    real = torch.cat([real, real.new_ones(B, new)], 1)
    region = torch.zeros_like(real)
    region[:, P:] = True
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    stats = RowStats(method.describe(), engine.binding.name)
    if entry is not None:
        entry.stats = stats
    stream = engine.stream(method.policy, positions)
    block = Block(P, P + size, P)
    return Run(engine, method, region, real, stream, block, limits.shifted(model, method.shift), stats)
