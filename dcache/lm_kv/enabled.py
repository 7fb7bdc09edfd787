"""Policies that are in force for every call of a model: each new text gets a cache of its own."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.lm_kv import adapter
from dcache.lm_kv.cache import KVCache
from dcache.lm_kv.cache_stats import CacheStats
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import make


@dataclass
class _Enabled:
    """A policy on one decoder.

    Attributes:
        policy: what is kept.
        attachment: dcache's hooks, which must not go between two caches.
        handle: the hook that gives calls their cache.
        cache: the last text's, by weak reference.
        number: how many caches there were; the last one's number.
        last: the last text's figures, once its cache is gone.
    """

    policy: Policy
    attachment: adapter.Attachment
    handle: Any = None
    cache: weakref.ref[KVCache] | None = None
    number: int = 0
    last: CacheStats | None = None


class _TextCache(KVCache):
    """The cache of one text, whose figures stay when it goes."""

    entry: _Enabled | None = None
    number = 0

    def __del__(self) -> None:
        # An older cache may go after a newer one came.
        if self.entry is not None and self.entry.number == self.number:
            self.entry.last = self.stats()


_enabled: weakref.WeakKeyDictionary[torch.nn.Module, _Enabled] = weakref.WeakKeyDictionary()


def enable(model: Any, policy: Policy | str, **options: Any) -> Any:
    """Give every new text of a language model a `KVCache`.

    A call without a cache, or with an empty plain DynamicCache (what `generate` makes), gets one. Calls that
    record gradients run as they are.

    Args:
        model: a causal language model of transformers, or what wraps one.
        policy: a policy with a budget, or the name of a preset.
        **options: the preset's, where a name is given.

    Returns:
        The model.

    Raises:
        DcacheError: the family is not supported, no budget is given, or a policy is enabled already. A call
            that brings another cache raises as well, for it would not be compressed.

    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from dcache import lm_kv
    >>> config = LlamaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    ...     num_key_value_heads=2, intermediate_size=32, eos_token_id=None)
    >>> model = lm_kv.enable(LlamaForCausalLM(config).eval(), "keydiff", budget=0.5)
    >>> out = model.generate(torch.arange(40)[None] + 5, max_new_tokens=3, do_sample=False)
    >>> lm_kv.stats(model).kept
    (22.0,)
    >>> lm_kv.disable(model) is model
    True
    """
    if isinstance(policy, str):
        policy = make(policy, **options)
    elif options:
        raise DcacheError(
            f"options ({', '.join(options)}) go with a policy's name: give them to the policy itself"
        )
    decoder = adapter.decoder_of(model)
    if decoder in _enabled:
        raise DcacheError("an lm_kv policy is enabled on this model already: call disable first")
    # Refuses now what the first call would refuse.
    KVCache(decoder, policy)
    entry = _Enabled(policy, adapter.attach(decoder))
    # In front of the hook that looks for a cache among the arguments.
    entry.handle = decoder.register_forward_pre_hook(_give_cache, with_kwargs=True, prepend=True)
    _enabled[decoder] = entry
    return model


def disable(model: Any) -> Any:
    """Take the policy off again; caches that users hold go on working.

    Returns:
        The model.

    Raises:
        DcacheError: none is enabled.
    """
    entry = _entry(model)
    entry.handle.remove()
    del _enabled[adapter.decoder_of(model)]
    return model


def is_enabled(model: Any) -> bool:
    """Whether a policy is enabled on this model."""
    return (
        any(module in _enabled for module in model.modules()) if isinstance(model, torch.nn.Module) else False
    )


def stats(model: Any) -> CacheStats:
    """The figures of the last text's cache.

    Raises:
        DcacheError: no policy is enabled.
    """
    entry = _entry(model)
    cache = None if entry.cache is None else entry.cache()
    if cache is not None:
        return cache.stats()
    return entry.last or replace(CacheStats(), method=entry.policy.name)


def _entry(model: Any) -> _Enabled:
    entry = _enabled.get(adapter.decoder_of(model))
    if entry is None:
        raise DcacheError("no lm_kv policy is enabled on this model: call enable first")
    return entry


def _give_cache(
    decoder: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    entry = _enabled.get(decoder)
    cache = kwargs.get("past_key_values")
    recorded = torch.is_grad_enabled() and any(p.requires_grad for p in decoder.parameters())
    # A deep copy of the model copies this hook, but not what is enabled.
    if entry is None or recorded or isinstance(cache, KVCache) or not adapter.wants_cache(decoder, kwargs):
        return None
    if isinstance(cache, adapter.LiveCache):
        return None
    if cache is not None and not adapter.is_empty_dynamic(cache):
        raise DcacheError(
            f"{entry.policy.name} is enabled on this model, but the call brings its own "
            f"{type(cache).__name__}, which would not be compressed. Leave past_key_values and "
            "cache_implementation out, or call disable first."
        )
    new = _TextCache(decoder, entry.policy)
    entry.number += 1
    new.entry, new.number = entry, entry.number
    entry.cache, entry.last = weakref.ref(new), None
    return args, {**kwargs, "past_key_values": new, "use_cache": True}
