"""Binding by the cache argument of the model's forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from dcache.diffusion_lm.bind.base import Binding
from dcache.diffusion_lm.passes import Pass, running
from dcache.intercept.sdpa import SdpaCalls


class CacheBinding(Binding):
    """A cache object whose `update` stores rows and returns those of all positions.

    Unlike at sdpa calls, keys are stored before their heads are repeated. Masks are exchanged at sdpa calls.
    """

    name = "cache argument"

    def run(self, forward: Pass, call: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """See `Binding.run`."""
        cache = RowCache(forward)
        with running(forward), SdpaCalls(partial(_masked, forward)):
            return call(**self.fitting(arguments), past_key_values=cache, use_cache=True)


class RowCache:
    """A stand-in for the model's KV cache during one forward: it stores rows and returns all positions."""

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


def _masked(forward: Pass, call: dict[str, Any]) -> dict[str, Any]:
    """The arguments of an sdpa call with the mask of all positions."""
    if forward.calls == 0:
        return call
    # `update` was called just before, and counted.
    mask = forward.mask(forward.calls - 1, call.get("attn_mask"))
    forward.observe(call["query"], call["key"], mask, call.get("scale"))
    causal = forward.capture and call.get("is_causal", False)
    return {**call, "attn_mask": mask, "is_causal": causal}
