"""Names and options of the policies, for editors and type checkers; a test compares them with the presets."""

from __future__ import annotations

import os
from typing import Literal, TypedDict

from dcache.lm_kv.codecs.codec import Codec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.scoring.heads import Pattern

PolicyName = Literal[
    "cake",
    "double_sparsity",
    "duo_attention",
    "expected_attention",
    "gear",
    "h2o",
    "keydiff",
    "kivi",
    "kvmerger",
    "kvzip",
    "lazy_eviction",
    "quest",
    "random",
    "razor_attention",
    "rotatekv",
    "scissorhands",
    "shadowkv",
    "snapkv",
    "streaming_llm",
    "tova",
]
Allocation = Literal["uniform", "heads", "layers", "global", "preference"]


class CacheOptions(TypedDict, total=False):
    """The options that every policy has, because `KVCache` takes them too."""

    budget: float
    codec: Codec | Policy
    allocation: Allocation
    floor: float
    dense_layers: tuple[int, ...]
    every: int


class PolicyOptions(CacheOptions, total=False):
    """The options of all policies; the pages in docs/lm_kv/policies list those of one policy."""

    bits: int
    calibration: str | os.PathLike[str] | None
    channels: int
    exact: int
    future: int
    gamma: float
    group: int
    history: int
    outliers: float
    page: int
    pattern: Pattern | str | os.PathLike[str] | None
    pool: int
    rank: int
    residual: int
    seed: int
    shift: bool
    sinks: int
    tau1: float
    tau2: float
    threshold: float
    window: float
