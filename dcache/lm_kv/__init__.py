"""Key-value caches for autoregressive transformers that evict for real, in padded batches.

    from dcache import lm_kv
    cache = lm_kv.KVCache(model, lm_kv.kvzip(allocation="global"), budget=0.25)
    out = model.generate(**batch, past_key_values=cache)

A published method is one small file in `policies/`, a function that returns a frozen `Policy`. This part
stands on `kernels`, `util` and `errors`; `transformers` is imported when a cache is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dcache.lm_kv.cache_stats import CacheReport, CacheStats
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
from dcache.lm_kv.policies.mikv import mikv
from dcache.lm_kv.policies.mpcache import mpcache
from dcache.lm_kv.policies.prefixkv import prefixkv
from dcache.lm_kv.policies.quest import quest
from dcache.lm_kv.policies.random import random
from dcache.lm_kv.policies.razor_attention import razor_attention
from dcache.lm_kv.policies.rekv import rekv
from dcache.lm_kv.policies.retrieval_attention import retrieval_attention
from dcache.lm_kv.policies.rotatekv import rotatekv
from dcache.lm_kv.policies.scissorhands import scissorhands
from dcache.lm_kv.policies.shadowkv import shadowkv
from dcache.lm_kv.policies.snapkv import snapkv
from dcache.lm_kv.policies.speckv import speckv
from dcache.lm_kv.policies.streaming_llm import streaming_llm
from dcache.lm_kv.policies.think import think
from dcache.lm_kv.policies.tidal_decode import tidal_decode
from dcache.lm_kv.policies.tova import tova
from dcache.lm_kv.policies.windowkv import windowkv
from dcache.lm_kv.policies.zipcache import zipcache
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import available, make, preset

if TYPE_CHECKING:
    from dcache.lm_kv.cache import KVCache
    from dcache.lm_kv.calibrating.repeated_text import head_pattern

__all__ = [
    "CacheReport",
    "CacheStats",
    "KVCache",
    "Policy",
    "a2ats",
    "actqkv",
    "available",
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
    "head_pattern",
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
    "make",
    "mikv",
    "mpcache",
    "prefixkv",
    "preset",
    "quest",
    "random",
    "razor_attention",
    "rekv",
    "retrieval_attention",
    "rotatekv",
    "scissorhands",
    "shadowkv",
    "snapkv",
    "speckv",
    "streaming_llm",
    "think",
    "tidal_decode",
    "tova",
    "windowkv",
    "zipcache",
]


def __getattr__(name: str) -> Any:
    # Imported when it is used: it imports transformers, which takes seconds.
    if name == "KVCache":
        from dcache.lm_kv.cache import KVCache

        return KVCache
    if name == "head_pattern":
        from dcache.lm_kv.calibrating.repeated_text import head_pattern

        return head_pattern
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
