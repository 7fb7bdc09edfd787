"""Binding by transformers' attention interface."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from dcache.diffusion_lm.bind.base import Binding
from dcache.diffusion_lm.passes import Pass, current, running
from dcache.util.attention_switch import AttentionSwitch

NAME = "dcache_rows"
_switch = AttentionSwitch(NAME)


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
        with running(forward), _switch.during(self.configs):
            return call(**self.fitting(arguments), **more)


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
    function: Any = ALL_ATTENTION_FUNCTIONS.get_interface(_switch.before(module.config), eager)
    result: tuple[torch.Tensor, torch.Tensor | None] = function(
        module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
    )
    return result


def _mask(**kwargs: Any) -> Any:
    forward = current()
    if forward is not None and not forward.capture:
        return None
    return ALL_MASK_ATTENTION_FUNCTIONS[_switch.before(kwargs["config"])](**kwargs)
