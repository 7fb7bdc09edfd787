"""Policies that are in force for every call of a model: each new text gets a cache of its own."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.cache import KVCache
from dcache.lm_kv.cache_stats import CacheStats
from dcache.lm_kv.model import adapter
from dcache.lm_kv.model.families import decoder_of
from dcache.lm_kv.policy import Policy


@dataclass
class _Enabled:
    """A policy on one decoder; it stays behind, for its figures, when it is taken off.

    Attributes:
        policy: what is kept.
        attachment: dcache's hooks, which must not go between two caches; None when it is taken off.
        handle: the hook that gives calls their cache; None when it is taken off.
        cache: the last text's, by weak reference.
        number: how many caches there were; the last one's number.
        last: the last text's figures, once its cache is gone.
    """

    policy: Policy
    attachment: adapter.Attachment | None = None
    handle: Any = None
    cache: weakref.ref[KVCache] | None = None
    number: int = 0
    last: CacheStats | None = None

    def figures(self) -> CacheStats:
        """The last text's."""
        cache = None if self.cache is None else self.cache()
        if cache is not None:
            return cache.stats()
        return self.last or replace(CacheStats(), method=self.policy.name)


class _TextCache(KVCache):
    """The cache of one text, whose figures stay when it goes."""

    entry: _Enabled | None = None
    number = 0

    def fork(self) -> KVCache:
        other = super().fork()
        # The figures are those of the text that the model has read.
        other.entry = None  # type: ignore[attr-defined]
        return other

    def __del__(self) -> None:
        # An older cache may go after a newer one came. At the interpreter's end torch may be gone in part.
        newest = self.entry is not None and self.entry.number == self.number
        if self.entry is not None and newest and not sys.is_finalizing():
            self.entry.last = self.stats()


_enabled: weakref.WeakKeyDictionary[torch.nn.Module, _Enabled] = weakref.WeakKeyDictionary()


def enable(model: Any, policy: Policy) -> None:
    """Give every new text of a language model a `KVCache`, in place of what was enabled before.

    A call without a cache, or with an empty plain DynamicCache (what `generate` makes), gets one. Calls that
    record gradients run as they are.

    Args:
        model: a causal language model of transformers, or what wraps one.
        policy: a policy with a budget.

    Raises:
        DcacheError: the family is not supported, or no budget is given; nothing was changed then. A call that
            brings another cache raises as well, for it would not be compressed.
    """
    decoder = decoder_of(model)
    # Refuses now what the first call would refuse.
    KVCache(decoder, policy)
    disable(model)
    _switch_on(decoder, _Enabled(policy))


def disable(model: Any) -> None:
    """Take the policy off again; caches that users hold go on working. Without effect where none is on."""
    _, entry = _entry_of(model)
    if entry is not None and entry.handle is not None:
        entry.handle.remove()
        entry.handle = entry.attachment = None


def stats(model: Any) -> CacheStats | None:
    """Figures of the last text's cache, also after `disable`; None where no policy was ever enabled."""
    _, entry = _entry_of(model)
    return None if entry is None else entry.figures()


def restorer(model: Any) -> Callable[[], None]:
    """A function that enables what is enabled now once more, after `disable`, with the figures it had."""
    decoder, entry = _entry_of(model)
    if decoder is None or entry is None or entry.handle is None:
        return lambda: None
    return lambda: _switch_on(decoder, entry)


def _entry_of(model: Any) -> tuple[torch.nn.Module | None, _Enabled | None]:
    """The decoder in a model that a policy is or was enabled on, and what is known of it."""
    modules = model.modules() if isinstance(model, torch.nn.Module) else ()
    return next(((module, _enabled[module]) for module in modules if module in _enabled), (None, None))


def _switch_on(decoder: torch.nn.Module, entry: _Enabled) -> None:
    entry.attachment = adapter.attach(decoder)
    # In front of the hook that looks for a cache among the arguments.
    entry.handle = decoder.register_forward_pre_hook(_give_cache, with_kwargs=True, prepend=True)
    _enabled[decoder] = entry


def _give_cache(
    decoder: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    entry = _enabled.get(decoder)
    call = adapter.named(decoder, args, kwargs)
    cache = call.get("past_key_values")
    recorded = torch.is_grad_enabled() and any(p.requires_grad for p in decoder.parameters())
    # A deep copy of the model copies this hook, but not what is enabled.
    if entry is None or entry.handle is None or recorded or not adapter.wants_cache(decoder, call):
        return None
    if isinstance(cache, adapter.LiveCache):
        return None
    if cache is not None and not adapter.is_empty_dynamic(cache):
        raise DcacheError(
            f"{entry.policy.name} is enabled on this model, but the call brings its own "
            f"{type(cache).__name__}, which would not be compressed. Leave past_key_values and "
            'cache_implementation out ("dynamic" is taken over), or call dcache.disable first.'
        )
    new = _TextCache(decoder, entry.policy)
    if adapter.verifies_drafts():
        # It was said to the cache that is replaced.
        new.activate_past_recording()
    entry.number += 1
    new.entry, new.number = entry, entry.number
    entry.cache, entry.last = weakref.ref(new), None
    return (), {**call, "past_key_values": new, "use_cache": True}
