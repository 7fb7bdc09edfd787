"""Guesses of what a denoiser of diffusers is called with: shapes from its config, masks and ids with data."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn

_TOKENS, _SIDE, _FRAMES, _WORDS = 16, 16, 3, 8
# Where configs keep the width of the text's embeddings, the most particular first.
_TEXT_WIDTHS = (
    "joint_attention_dim",
    "caption_channels",
    "text_embed_dim",
    "text_dim",
    "cap_feat_dim",
    "cross_attention_dim",
)


def guesses(module: nn.Module) -> Iterator[dict[str, Any]]:
    """Keyword arguments of a call, one guess for each usual layout of latents.

    Args:
        module: the denoiser, made under `torch.device("meta")`.

    Returns:
        Latents and text without data, for `Hollow`; timesteps, masks and ids with data.
    """
    names = [p.name for p in inspect.signature(type(module).forward).parameters.values()][1:]
    config = dict(getattr(module, "config", None) or {})
    conditions = {**_conditions(names, config), **_particular(names, config)}
    for sample in _samples(config):
        for grid in ({}, _position_ids(names, sample.shape[1], len(config.get("axes_dims_rope") or "xyz"))):
            given = {names[0]: sample, **conditions, **grid}
            yield {name: value for name, value in given.items() if name in names}


def _hollow(*shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


def _samples(config: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    """Latents of the usual layouts: tokens, an image, a video with frames behind or before the channels."""
    channels = config.get("in_channels") or config.get("num_channels") or 4
    height, width = config.get("sample_height") or _SIDE, config.get("sample_width") or _SIDE
    yield _hollow(1, _TOKENS, channels)
    yield _hollow(1, channels, height, width)
    yield _hollow(1, channels, _FRAMES, height, width)
    yield _hollow(1, _FRAMES, channels, height, width)


def _text_width(config: Mapping[str, Any]) -> int:
    widths = (config.get(name) for name in _TEXT_WIDTHS)
    return next((width for width in widths if isinstance(width, int)), 8)


def _conditions(names: list[str], config: Mapping[str, Any]) -> dict[str, Any]:
    mask = torch.ones(1, _WORDS, dtype=torch.bool)
    given: dict[str, Any] = {
        "timestep": torch.ones(1, dtype=torch.int64 if "class_labels" in names else torch.float32),
        "timesteps": torch.ones(1),
        "encoder_hidden_states": _hollow(1, _WORDS, _text_width(config)),
        "encoder_hidden_states_mask": mask,
        "encoder_attention_mask": mask,
        "pooled_projections": _hollow(1, config.get("pooled_projection_dim") or 8),
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
    if not sizes or config.get("addition_embed_type") != "text_time":
        return {"resolution": torch.ones(1, 2), "aspect_ratio": torch.ones(1, 1)}
    pooled = config["projection_class_embeddings_input_dim"] - 6 * sizes
    return {"text_embeds": _hollow(1, pooled), "time_ids": torch.ones(1, 6)}


def _position_ids(names: list[str], tokens: int, axes: int) -> dict[str, torch.Tensor]:
    counts = {"img_ids": tokens, "txt_ids": _WORDS}
    return {name: torch.zeros(count, axes) for name, count in counts.items() if name in names}


def _particular(names: Collection[str], config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that few models take, by one that tells them."""
    special = {
        "added_time_ids": _svd,
        "cap_feats": _z_image,
        "control_hidden_states": _vace,
        "crop_coords": _cogview4,
        "encoder_hidden_states_2": _hunyuan_video15,
        "encoder_hidden_states_llama3": _hidream,
        "encoder_mask": _lumina_next,
        "token_tags": _minimax_h3,
    }
    given: dict[str, Any] = {}
    for name, make in special.items():
        if name in names:
            # Another model with an argument of this name may lack what its namesake's config has.
            with suppress(KeyError):
                given |= make(config)
    return given


def _cogview4(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: torch.ones(1, 2) for name in ("original_size", "target_size", "crop_coords")}


def _hidream(config: Mapping[str, Any]) -> dict[str, Any]:
    t5, llama = config["caption_channels"]
    layers, side = max(config["llama_layers"]) + 1, 4
    return {
        "hidden_states": _hollow(1, side * side, config["patch_size"] ** 2 * config["in_channels"]),
        "hidden_states_masks": torch.ones(1, side * side),
        "img_ids": torch.zeros(1, side * side, 3),
        "img_sizes": [(side, side)],
        "encoder_hidden_states_t5": _hollow(1, _WORDS, t5),
        "encoder_hidden_states_llama3": _hollow(layers, 1, _WORDS, llama),
        "pooled_embeds": _hollow(1, config["text_emb_dim"]),
    }


def _hunyuan_video15(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "encoder_hidden_states_2": _hollow(1, _WORDS, config["text_embed_2_dim"]),
        "encoder_attention_mask_2": torch.ones(1, _WORDS, dtype=torch.bool),
        "image_embeds": _hollow(1, _WORDS, config["image_embed_dim"]),
    }


def _lumina_next(config: Mapping[str, Any]) -> dict[str, Any]:
    head = config["hidden_size"] // config["num_attention_heads"]
    return {
        "encoder_mask": torch.ones(1, _WORDS, dtype=torch.int64),
        "image_rotary_emb": _hollow(_SIDE, _SIDE, head // 2, dtype=torch.complex64),
        "cross_attention_kwargs": {},
    }


def _minimax_h3(config: Mapping[str, Any]) -> dict[str, Any]:
    """One packed sequence of text, audio and video rows."""
    t, h, w = config["patch_size"]
    rows = torch.arange(3 * _WORDS)
    return {
        "hidden_states": _hollow(1, _WORDS, config["in_channels"] * t * h * w),
        "audio_hidden_states": _hollow(1, _WORDS, config["audio_in_channels"]),
        "timestep_indices": torch.zeros(len(rows), dtype=torch.int64),
        "token_tags": torch.tensor([1, 2, 0]).repeat_interleave(_WORDS),
        "position_ids": torch.zeros(len(rows), 3),
        "text_indices": rows[:_WORDS],
        "audio_indices": rows[_WORDS : 2 * _WORDS],
        "video_indices": rows[2 * _WORDS :],
    }


def _svd(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"added_time_ids": torch.ones(1, 3)}


def _vace(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"control_hidden_states": _hollow(1, config["vace_in_channels"], _FRAMES, _SIDE, _SIDE)}


def _z_image(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "x": [_hollow(config["in_channels"], 1, _SIDE, _SIDE)],
        "t": torch.ones(1),
        "cap_feats": [_hollow(_WORDS, config["cap_feat_dim"])],
    }
