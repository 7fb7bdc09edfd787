"""Binding by the cache argument of the model's forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dcache.diffusion_lm.bind.base import Binding
from dcache.diffusion_lm.passes import Pass, running


class CacheBinding(Binding):
    """A cache object whose `update` stores rows and returns those of all positions.

    Unlike at sdpa calls, keys are stored before their heads are repeated. Masks are exchanged at sdpa calls.
    """

    name = "cache argument"

    def run(self, forward: Pass, call: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """See `Binding.run`."""
        cache = RowCache(forward)
        with running(forward), _Masked(forward):
            return call(**self.fitting(arguments), past_key_values=cache, use_cache=True)


class RowCache:
    """What a model takes for its KV cache during one forward."""

    is_compileable = False

    def __init__(self, forward: Pass) -> None:
        self.forward = forward

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store rows `[B, h, K, d]`; returns keys and values of all positions."""
        return self.forward.store_rows(keys, values)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """No token precedes the call's own."""
        return 0

    def __len__(self) -> int:
        return 0


class _Masked(TorchFunctionMode):
    def __init__(self, forward: Pass) -> None:
        super().__init__()
        self.forward = forward

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention or self.forward.calls == 0:
            return func(*args, **(kwargs or {}))
        call = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False))
        call.update(kwargs or {})
        # `update` was called just before, and counted.
        mask = self.forward.mask(self.forward.calls - 1, call.get("attn_mask"))
        self.forward.observe(call["query"], call["key"], mask, call.get("scale"))
        causal = self.forward.capture and call.get("is_causal", False)
        return func(**{**call, "attn_mask": mask, "is_causal": causal})
