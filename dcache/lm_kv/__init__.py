"""Key-value caches for autoregressive transformers that evict for real, in padded batches.

    from dcache import lm_kv
    cache = lm_kv.KVCache(model, lm_kv.kvzip(allocation="global"), budget=0.25)
    out = model.generate(**batch, past_key_values=cache)

A published method is one small file in `policies/`, a function that returns a frozen `Policy`. This part
stands on `kernels`, `util` and `errors`; `transformers` is imported when a cache is made.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dcache.lm_kv.cache_stats import CacheReport, CacheStats
from dcache.lm_kv.codecs.cachegen import cachegen
from dcache.lm_kv.policies.a2ats import a2ats
from dcache.lm_kv.policies.actqkv import actqkv
from dcache.lm_kv.policies.cake import cake
from dcache.lm_kv.policies.compresskv import compresskv
from dcache.lm_kv.policies.cskv import cskv
from dcache.lm_kv.policies.d2o import d2o
from dcache.lm_kv.policies.double_sparsity import double_sparsity
from dcache.lm_kv.policies.duo_attention import duo_attention
from dcache.lm_kv.policies.elastic_vlm import elastic_vlm
from dcache.lm_kv.policies.ems import ems
from dcache.lm_kv.policies.expected_attention import expected_attention
from dcache.lm_kv.policies.gear import gear
from dcache.lm_kv.policies.h2o import h2o
from dcache.lm_kv.policies.keydiff import keydiff
from dcache.lm_kv.policies.keyformer import keyformer
from dcache.lm_kv.policies.kivi import kivi
from dcache.lm_kv.policies.kvcrush import kvcrush
from dcache.lm_kv.policies.kvmerger import kvmerger
from dcache.lm_kv.policies.kvzip import kvzip
from dcache.lm_kv.policies.lacache import lacache
from dcache.lm_kv.policies.lazy_eviction import lazy_eviction
from dcache.lm_kv.policies.leoam import leoam
from dcache.lm_kv.policies.look_m import look_m
from dcache.lm_kv.policies.loopserve import loopserve
from dcache.lm_kv.policies.matryoshka import matryoshka
from dcache.lm_kv.policies.mikv import mikv
from dcache.lm_kv.policies.minicache import minicache
from dcache.lm_kv.policies.mpcache import mpcache
from dcache.lm_kv.policies.prefixkv import prefixkv
from dcache.lm_kv.policies.quest import quest
from dcache.lm_kv.policies.random import random
from dcache.lm_kv.policies.razor_attention import razor_attention
from dcache.lm_kv.policies.rekv import rekv
from dcache.lm_kv.policies.retrieval_attention import retrieval_attention
from dcache.lm_kv.policies.rotatekv import rotatekv
from dcache.lm_kv.policies.scissorhands import scissorhands
from dcache.lm_kv.policies.sentencekv import sentencekv
from dcache.lm_kv.policies.shadowkv import shadowkv
from dcache.lm_kv.policies.snapkv import snapkv
from dcache.lm_kv.policies.speckv import speckv
from dcache.lm_kv.policies.streaming_llm import streaming_llm
from dcache.lm_kv.policies.think import think
from dcache.lm_kv.policies.tidal_decode import tidal_decode
from dcache.lm_kv.policies.tova import tova
from dcache.lm_kv.policies.trained_scorer import trained_scorer
from dcache.lm_kv.policies.vidkv import vidkv
from dcache.lm_kv.policies.windowkv import windowkv
from dcache.lm_kv.policies.xkv import xkv
from dcache.lm_kv.policies.xquant import xquant
from dcache.lm_kv.policies.xquant_cl import xquant_cl
from dcache.lm_kv.policies.zipcache import zipcache
from dcache.lm_kv.policies.zipvl import zipvl
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import available, make, preset
from dcache.lm_kv.reuse.cache_craft import cache_craft
from dcache.lm_kv.reuse.cacheblend import cacheblend
from dcache.lm_kv.reuse.kvcomm import kvcomm
from dcache.lm_kv.reuse.method import Reuse
from dcache.lm_kv.reuse.pie import pie
from dcache.lm_kv.sharing.ape import ape
from dcache.lm_kv.sharing.hogwild import hogwild
from dcache.lm_kv.sharing.hydragen import hydragen
from dcache.lm_kv.sharing.prepacking import prepacking
from dcache.lm_kv.sharing.triforce import triforce
from dcache.util.distribution import needs_transformers

if TYPE_CHECKING:
    from dcache.lm_kv.cache import KVCache
    from dcache.lm_kv.calibrating.repeated_text import head_pattern
    from dcache.lm_kv.episodic import episodes
    from dcache.lm_kv.reuse.chunk import Chunk, encode
    from dcache.lm_kv.reuse.edit import edit
    from dcache.lm_kv.reuse.join import Joined, join

__all__ = [
    "CacheReport",
    "CacheStats",
    "Chunk",
    "Joined",
    "KVCache",
    "Policy",
    "Reuse",
    "a2ats",
    "actqkv",
    "ape",
    "available",
    "cache_craft",
    "cacheblend",
    "cachegen",
    "cake",
    "compresskv",
    "cskv",
    "d2o",
    "double_sparsity",
    "duo_attention",
    "edit",
    "elastic_vlm",
    "ems",
    "encode",
    "episodes",
    "expected_attention",
    "gear",
    "h2o",
    "head_pattern",
    "hogwild",
    "hydragen",
    "join",
    "keydiff",
    "keyformer",
    "kivi",
    "kvcomm",
    "kvcrush",
    "kvmerger",
    "kvzip",
    "lacache",
    "lazy_eviction",
    "leoam",
    "look_m",
    "loopserve",
    "make",
    "matryoshka",
    "mikv",
    "minicache",
    "mpcache",
    "pie",
    "prefixkv",
    "prepacking",
    "preset",
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
    "trained_scorer",
    "triforce",
    "vidkv",
    "windowkv",
    "xkv",
    "xquant",
    "xquant_cl",
    "zipcache",
    "zipvl",
]

# Imported when it is used, for transformers takes seconds: name -> module.
_LATER = {
    "Chunk": "reuse.chunk",
    "Joined": "reuse.join",
    "KVCache": "cache",
    "edit": "reuse.edit",
    "encode": "reuse.chunk",
    "episodes": "episodic",
    "head_pattern": "calibrating.repeated_text",
    "join": "reuse.join",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"dcache.lm_kv.{_LATER[name]}"), name)
    except ImportError as error:
        raise needs_transformers(error) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
