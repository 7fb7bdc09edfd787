"""Names and options of the policies, for editors and type checkers; a test compares them with the presets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from dcache.lm_kv.codecs.codec import Codec
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.scoring.heads import Pattern
from dcache.lm_kv.scoring.lookahead import Draft

PolicyName = Literal[
    "a2ats",
    "actqkv",
    "cake",
    "compresskv",
    "cskv",
    "d2o",
    "double_sparsity",
    "duo_attention",
    "elastic_vlm",
    "ems",
    "expected_attention",
    "gear",
    "h2o",
    "keydiff",
    "keyformer",
    "kivi",
    "kvcrush",
    "kvmerger",
    "kvzip",
    "lacache",
    "lazy_eviction",
    "leoam",
    "look_m",
    "loopserve",
    "matryoshka",
    "mikv",
    "minicache",
    "mpcache",
    "prefixkv",
    "quest",
    "random",
    "razor_attention",
    "rekv",
    "retrieval_attention",
    "rotatekv",
    "scissorhands",
    "sentencekv",
    "shadowkv",
    "snapkv",
    "speckv",
    "streaming_llm",
    "think",
    "tidal_decode",
    "tova",
    "vidkv",
    "windowkv",
    "xkv",
    "xquant",
    "xquant_cl",
    "zipcache",
    "zipvl",
]
Allocation = Literal["uniform", "heads", "layers", "global", "preference", "coverage"]


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

    again: float
    anchor: str
    base: int
    base_bits: int
    best: int | None
    bits: int
    block: int
    calibration: str | os.PathLike[str] | None
    channels: int
    codes: int
    distance: int
    draft: Draft | Any
    edges: int
    effort: int
    ends: Sequence[int] | Any | None
    exact: int
    folder: str | os.PathLike[str] | None
    future: int
    gamma: float
    group: int
    growth: float
    heads: int
    held: float
    history: int
    host: float
    key_bits: float
    layers: int
    longest: int
    low: int
    merge: str
    outliers: float
    overlap: int
    page: int
    pattern: Pattern | str | os.PathLike[str] | None
    pool: int
    queries: int
    rank: int
    ratio: float
    residual: int
    review: int
    search: str
    seed: int
    share: float
    shift: bool
    sinks: int
    sizes: int
    span: int | None
    start: float
    t: float
    tau1: float
    tau2: float
    threshold: float | None
    tokens: int
    value_bits: float
    value_rank: int
    window: float
