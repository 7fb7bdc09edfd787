"""The share of a denoiser's weights that a memo can spare, from its config alone: on torch's meta device."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from dcache.errors import DcacheError
from dcache.time_memo.clock import Clock
from dcache.time_memo.observe import observe
from dcache.time_memo.report import MemoReport

_TOKENS, _SIDE, _FRAMES = 16, 16, 3
# Where configs keep the width of the text's embeddings, the most particular first.
_TEXT_WIDTHS = (
    "joint_attention_dim",
    "caption_channels",
    "text_embed_dim",
    "text_dim",
    "cap_feat_dim",
    "cross_attention_dim",
)


def share_of(module: nn.Module) -> MemoReport:
    """What a memo would take of a denoiser; nothing is computed.

    Args:
        module: the denoiser, made under `torch.device("meta")`.

    Raises:
        DcacheError: its forward cannot be followed without data, or its arguments cannot be guessed.
    """
    errors = []
    for given in _candidates(module):
        try:
            with torch.no_grad():
                seen = observe(module, module, (), given, time_name=Clock(module).name)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
            continue
        return MemoReport.of(module, seen.timed, observed=True)
    first = errors[0].splitlines()[0] if errors else "its arguments cannot be guessed"
    raise DcacheError(
        f"{type(module).__name__} cannot be followed without data ({first}). Run it once instead: "
        "dcache.memo(pipe), one call, print(dcache.memo_report(pipe))."
    )


def _candidates(module: nn.Module) -> Iterator[dict[str, Any]]:
    """Guesses of what a denoiser of diffusers may be called with."""
    names = [p.name for p in inspect.signature(type(module).forward).parameters.values()][1:]
    config = dict(getattr(module, "config", None) or {})
    with torch.device("meta"):
        conditions = _conditions(names, config)
        for sample in _samples(config):
            for grid in (
                {},
                _position_ids(names, sample.shape[1], len(config.get("axes_dims_rope") or "xyz")),
            ):
                given = {**conditions, **grid, names[0]: sample}
                yield {name: value for name, value in given.items() if name in names}


def _samples(config: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    """Latents of the usual layouts: tokens, an image, a video with frames behind or before the channels."""
    channels = config.get("in_channels") or config.get("num_channels") or 4
    height, width = config.get("sample_height") or _SIDE, config.get("sample_width") or _SIDE
    yield torch.empty(1, _TOKENS, channels)
    yield torch.empty(1, channels, height, width)
    yield torch.empty(1, channels, _FRAMES, height, width)
    yield torch.empty(1, _FRAMES, channels, height, width)


def _conditions(names: list[str], config: Mapping[str, Any]) -> dict[str, Any]:
    widths = (config.get(name) for name in _TEXT_WIDTHS)
    text = next((width for width in widths if isinstance(width, int)), 8)
    given: dict[str, Any] = {
        "timestep": torch.ones(1, dtype=torch.int64 if "class_labels" in names else torch.float32),
        "timesteps": torch.ones(1),
        "encoder_hidden_states": torch.empty(1, 8, text),
        "encoder_hidden_states_mask": torch.ones(1, 8, dtype=torch.bool),
        "encoder_attention_mask": torch.ones(1, 8, dtype=torch.bool),
        "pooled_projections": torch.empty(1, config.get("pooled_projection_dim") or 8),
        "guidance": torch.ones(1) if config.get("guidance_embeds") else None,
        "img_shapes": [[(1, 4, 4)]],
        "added_cond_kwargs": _added(config),
        "num_frames": 1,
        "height": 4,
        "width": 4,
        "return_dict": False,
    }
    if config.get("norm_type") == "ada_norm_zero":
        given["class_labels"] = torch.ones(1, dtype=torch.int64)
    return given


def _added(config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The conditions of SDXL's UNet, or of PixArt."""
    sizes = config.get("addition_time_embed_dim")
    if not sizes:
        return {"resolution": torch.ones(1, 2), "aspect_ratio": torch.ones(1, 1)}
    pooled = config["projection_class_embeddings_input_dim"] - 6 * sizes
    return {"text_embeds": torch.empty(1, pooled), "time_ids": torch.ones(1, 6)}


def _position_ids(names: list[str], tokens: int, axes: int) -> dict[str, torch.Tensor]:
    counts = {"img_ids": tokens, "txt_ids": 8}
    return {name: torch.zeros(count, axes) for name, count in counts.items() if name in names}
