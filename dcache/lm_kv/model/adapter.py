"""The one file that touches transformers' internals: attention and mask functions, hooks, cache classes.

A cache is in force only while its decoder's forward runs. Meanwhile the attention implementation of the
decoder's configs is dcache's; it reads a layer's storage through a tag on the keys that `update` returned,
and hands whatever has no tag to the implementation that was set before.
"""

from __future__ import annotations

import inspect
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer
from transformers.generation.candidate_generator import CandidateGenerator
from transformers.generation.utils import GenerationMixin
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    AttentionMaskInterface,
    causal_mask_function,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from dcache.errors import DcacheError
from dcache.util.attention_switch import AttentionSwitch

NAME = "dcache_lm_kv"
BaseLayer = CacheLayerMixin
FullLayer = DynamicLayer


class Tagged(Protocol):
    """A layer whose storage attention reads."""

    @property
    def attend(self) -> Callable[..., torch.Tensor]:
        """(module, query, key, value, mask, scaling, **kwargs) -> `[B, S, H, d_v]`."""


class LiveCache(Cache):
    """A cache with callbacks at the begin and the end of its decoder's forward.

    Attributes:
        compressed_layers: indices of the layers whose storage attention reads.
    """

    layers: list[Any]
    compressed_layers: list[int]

    def begin(self, decoder: torch.nn.Module, call: Mapping[str, Any]) -> None:
        """A forward begins with these keyword arguments; raise to refuse it."""

    def end(self, completed: bool) -> None:
        """It ended, in an exception where it was not completed."""


def is_empty_dynamic(cache: object) -> bool:
    """Whether this is a plain DynamicCache that holds nothing and moves nothing to the CPU."""
    return type(cache) is DynamicCache and not cache.offloading and cache.get_seq_length() == 0


def verifies_drafts() -> bool:
    """Whether transformers' assisted decoding runs in this thread, which takes tokens back after a call.

    It says so to the cache that it begins with, which keeps no trace of it where all attention is full.
    """
    code = GenerationMixin._assisted_decoding.__code__
    return any(frame.f_code is code for frame, _ in traceback.walk_stack(None))


class _Assisted:
    """A model that assists itself: transformers' assisted decoding asks it for the candidates."""

    def __init__(self, model: Any, generator: CandidateGenerator) -> None:
        self.model, self.generator = model, generator

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, **inputs: Any) -> Any:
        return self.model(**inputs)

    def _get_candidate_generator(self, **arguments: Any) -> CandidateGenerator:
        return self.generator


def assisted(model: Any, generator: CandidateGenerator, input_ids: torch.Tensor, **arguments: Any) -> Any:
    """What transformers' assisted decoding of a model gives with these candidates."""
    decode: Any = GenerationMixin._assisted_decoding
    return decode(_Assisted(model, generator), input_ids, **arguments)


def named(decoder: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A forward's arguments by name."""
    if not args:
        return dict(kwargs)
    return {**dict(zip(inspect.signature(decoder.forward).parameters, args, strict=False)), **kwargs}


def wants_cache(decoder: torch.nn.Module, call: Mapping[str, Any]) -> bool:
    """Whether this forward would make a cache if it is given none."""
    config: Any = decoder.config
    use_cache = call.get("use_cache")
    return bool(getattr(config, "use_cache", False) if use_cache is None else use_cache)


class Inputs:
    """What each attention module of a decoder was given last in a call with a cache of ours, by thread."""

    def __init__(self, modules: Mapping[int, torch.nn.Module]) -> None:
        self.latest = threading.local()
        for layer, module in modules.items():
            hook = partial(_note_input, self.latest, layer)
            weakref.finalize(self, module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def take(self, layer: int) -> torch.Tensor | None:
        """A layer's, `[B, S, D]`, which is not held any longer; None where there is none."""
        given: torch.Tensor | None = self.latest.__dict__.pop(str(layer), None)
        return given


def _note_input(
    latest: threading.local,
    layer: int,
    module: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    if _current() is not None:
        latest.__dict__[str(layer)] = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]


class Attachment:
    """dcache's hooks on one decoder; they go when the last cache that holds this goes."""

    def __init__(self, decoder: torch.nn.Module) -> None:
        # Some families keep several configs; walking all modules costs a millisecond, so it is done once.
        configs = {id(m.config): m.config for m in decoder.modules() if hasattr(m, "config")}
        self.configs: list[Any] = list(configs.values())
        weakref.finalize(self, decoder.register_forward_pre_hook(_enter, with_kwargs=True).remove)
        weakref.finalize(self, decoder.register_forward_hook(_leave, always_call=True).remove)


_attachments: weakref.WeakKeyDictionary[torch.nn.Module, weakref.ref[Attachment]] = (
    weakref.WeakKeyDictionary()
)
_lock = threading.RLock()
_thread = threading.local()
_switch = AttentionSwitch(NAME)


def attach(decoder: torch.nn.Module) -> Attachment:
    """Hooks on a decoder, shared by all its caches."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)
    with _lock:
        reference = _attachments.get(decoder)
        attachment = None if reference is None else reference()
        if attachment is None:
            # A deep copy of a model copies its hooks; they are functions of this module and serve the copy as
            # well.
            _discard_copies(decoder)
            attachment = Attachment(decoder)
            _attachments[decoder] = weakref.ref(attachment)
        return attachment


def _discard_copies(decoder: torch.nn.Module) -> None:
    """Remove hooks that a deep copy of a model took along."""
    for hooks, function in ((decoder._forward_pre_hooks, _enter), (decoder._forward_hooks, _leave)):
        for key in [key for key, hook in hooks.items() if hook is function]:
            del hooks[key]


@dataclass
class _Frame:
    """One forward that runs in this thread; `cache` is None for forwards without one of ours."""

    decoder: torch.nn.Module
    cache: LiveCache | None = None
    attachment: Attachment | None = None


def _frames() -> list[_Frame]:
    frames: list[_Frame] = _thread.__dict__.setdefault("frames", [])
    return frames


def _enter(decoder: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    frame = _Frame(decoder)
    # First of all, for `_leave` is called even where this raises.
    _frames().append(frame)
    call = named(decoder, args, kwargs)
    cache = call.get("past_key_values")
    if not isinstance(cache, LiveCache):
        return
    cache.begin(decoder, call)
    reference = _attachments.get(decoder)
    frame.attachment = None if reference is None else reference()
    if frame.attachment is not None:
        _switch.on(frame.attachment.configs)
    frame.cache = cache


def _leave(decoder: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
    frames = _frames()
    if not frames or frames[-1].decoder is not decoder:
        return
    frame = frames.pop()
    if frame.cache is not None:
        if frame.attachment is not None:
            _switch.off(frame.attachment.configs)
        frame.cache.end(completed=output is not None)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    layer: Tagged | None = getattr(key, "_dcache_layer", None)
    if layer is not None:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return layer.attend(module, query, key, value, attention_mask, scale, **kwargs), None
    cache = _current()
    if cache is not None and getattr(module, "layer_idx", None) in cache.compressed_layers:
        raise DcacheError(
            f"{type(module).__name__} changes keys after it gave them to the cache, so their storage cannot "
            "be read; this family is not supported"
        )
    before = _switch.before(module.config)
    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    function: Any = ALL_ATTENTION_FUNCTIONS.get_interface(before, eager)
    result: tuple[torch.Tensor, torch.Tensor | None] = function(
        module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
    )
    return result


def _mask(**kwargs: Any) -> Any:
    plain = kwargs.get("mask_function") is causal_mask_function and kwargs.get("local_size") is None
    if plain and _current() is not None:
        # Storage is ragged: what remains of the mask is which of this call's tokens are pads.
        return kwargs.get("attention_mask")
    return ALL_MASK_ATTENTION_FUNCTIONS[_switch.before(kwargs["config"])](**kwargs)


def _current() -> LiveCache | None:
    frames = _frames()
    return frames[-1].cache if frames else None


def tag(keys: torch.Tensor, layer: Tagged) -> torch.Tensor:
    """A view of this call's keys that names the layer to attention."""
    view = keys.view_as(keys)
    view._dcache_layer = layer  # type: ignore[attr-defined]
    return view
