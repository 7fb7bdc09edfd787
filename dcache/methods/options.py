"""Options of the presets, for editors and type checkers; a test compares them with the presets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from dcache.profile import Profile
from dcache.schedule import Schedule

Branches = Literal["separate", "together"]
Clock = Literal["step", "timestep", "sigma", "logsnr"]
# Editors complete these names; any other text may be a site too ("block:3").
Sites = (
    Literal["auto", "trunk", "model", "block", "sublayers", "attn", "cross_attn", "mlp", "bracket:0"]
    | str
    | list[str]
)
Codec = (
    Literal[
        "value",
        "delta",
        "value:bfloat16",
        "delta:bfloat16",
        "value:int8",
        "delta:int8",
        "value:fp8",
        "delta:fp8",
    ]
    | str
)
File = str | os.PathLike[str]


class PresetOptions(TypedDict, total=False):
    """The options of all presets; `dcache methods NAME` lists those of one preset with their meanings."""

    anchors: int
    attn: int
    attn_below: float
    attn_interval: int
    back: int
    background: Sequence[int] | None
    blend: float
    blocks: float
    boundary: float
    branch_id: int
    branches: Branches
    clock: Clock | None
    codec: Codec | None
    coefficients: File | Sequence[float] | None
    computes: int
    cross_attn: int | None
    degree: int
    difference: float
    early: int
    early_threshold: float
    front: int
    gate: int | None
    growth: float
    guidance_below: float
    guidance_interval: int
    interval: int
    last: bool
    late_interval: int
    lite: bool
    max_run: int | None
    metric: str
    mlp: int | None
    order: int
    profile: File | Profile | Schedule | None
    quality: float | None
    ratios: File | Sequence[float] | None
    retention: float
    ridge: float
    scale: float
    sensitivities: File | Sequence[float] | None
    share: float | None
    sigmas: Sequence[float]
    sites: Sites | None
    speedup: float | None
    start: int
    steps: int | Sequence[int] | None
    t_max: int
    t_min: int | None
    table: File | Mapping[str, Sequence[int]] | None
    threshold: float | None
    timesteps: bool
    union: int
    warmup: int
    weight: float
    window: float | tuple[float, float]
