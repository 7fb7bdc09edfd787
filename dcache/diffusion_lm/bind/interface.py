"""Binding by transformers' attention interface."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from dcache.diffusion_lm.bind.base import Binding
from dcache.diffusion_lm.passes import Pass, current, running

NAME = "dcache_rows"
_lock = threading.RLock()
# id of a config -> (forwards that run with dcache's implementation, the one that was set before).
_previous: dict[int, tuple[int, str]] = {}


class InterfaceBinding(Binding):
    """The attention implementation of the model's configs is dcache's while a forward runs."""

    name = "attention interface"

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        AttentionInterface.register(NAME, _attention)
        AttentionMaskInterface.register(NAME, _mask)
        configs = {id(part.config): part.config for part in model.modules() if hasattr(part, "config")}
        self.configs = [c for c in configs.values() if hasattr(c, "_attn_implementation_internal")]

    def run(self, forward: Pass, call: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """See `Binding.run`."""
        more = {"use_cache": False} if "use_cache" in self.takes or self.takes_any else {}
        with running(forward), _switched(self.configs):
            return call(**self.fitting(arguments), **more)


@contextmanager
def _switched(configs: list[Any]) -> Iterator[None]:
    with _lock:
        for config in configs:
            count, before = _previous.get(id(config), (0, config._attn_implementation))
            _previous[id(config)] = (count + 1, before)
            # Not the property: it would also set the configs of other parts.
            config._attn_implementation_internal = NAME
    try:
        yield
    finally:
        with _lock:
            for config in configs:
                count, before = _previous.pop(id(config))
                if count > 1:
                    _previous[id(config)] = (count - 1, before)
                else:
                    config._attn_implementation_internal = before


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    forward = current()
    if forward is not None:
        key, value, attention_mask = forward.attention(query, key, value, attention_mask, scaling)
        if not forward.capture:
            # The implementation would take rows of queries for the last positions of a causal model.
            kwargs["is_causal"] = False
    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    function: Any = ALL_ATTENTION_FUNCTIONS.get_interface(_implementation(module.config), eager)
    result: tuple[torch.Tensor, torch.Tensor | None] = function(
        module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
    )
    return result


def _mask(**kwargs: Any) -> Any:
    forward = current()
    if forward is not None and not forward.capture:
        return None
    return ALL_MASK_ATTENTION_FUNCTIONS[_implementation(kwargs["config"])](**kwargs)


def _implementation(config: Any) -> str:
    """The implementation before ours; it may be set again already, by another thread whose forward ended."""
    with _lock:
        entry = _previous.get(id(config))
        return config._attn_implementation if entry is None else entry[1]
