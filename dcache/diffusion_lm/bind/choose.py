"""Choose the binding of a model, and check it against the model's own pass."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import nn

from dcache.diffusion_lm.bind.base import Binding, logits_of
from dcache.diffusion_lm.masks import Masks
from dcache.diffusion_lm.passes import Pass
from dcache.diffusion_lm.selection import Selection
from dcache.diffusion_lm.store import KVStore
from dcache.errors import DcacheError

WIDTH = 16
# Largest difference of logits, as a share of the largest logit.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
REDUCED = 0.05


def bind(model: nn.Module, call: Callable[..., Any]) -> Binding:
    """The first binding that reaches the model's attention, after the self-check.

    Args:
        model: a language model.
        call: its call behind dcache's intercept.

    Raises:
        DcacheError: the model is causal, no binding reaches its attention, or the logits of rows differ from
            the model's own.
    """
    ids = probe_ids(model)
    with torch.no_grad():
        plain = refuse_causal(model, call)
        reasons = []
        for make in _makers(model):
            binding = make()
            reason = _check(binding, call, ids, plain)
            if reason is None:
                return binding
            binding.remove()
            reasons.append(f"{binding.name}: {reason}")
    raise DcacheError(
        f"{type(model).__name__} cannot compute rows of a sequence by themselves ({'; '.join(reasons)}). It "
        "would need explicit positions, and attention by transformers' interface, a cache argument or sdpa."
    )


def _makers(model: nn.Module) -> list[Callable[[], Binding]]:
    from dcache.diffusion_lm.bind.cache import CacheBinding
    from dcache.diffusion_lm.bind.sdpa import SdpaBinding

    makers: list[Callable[[], Binding]] = [lambda: CacheBinding(model), lambda: SdpaBinding(model)]
    try:
        from dcache.diffusion_lm.bind.interface import InterfaceBinding
    except ImportError:
        return makers
    return [lambda: InterfaceBinding(model), *makers]


def probe_ids(model: nn.Module) -> torch.Tensor:
    """Ids int64 `[2, 16]` that the model has, padding ids and mask tokens among them only by chance."""
    tensors = chain(model.parameters(), model.buffers())
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    config: Any = getattr(model, "config", None)
    vocabulary = int(getattr(config, "vocab_size", 0) or 32)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(min(3, vocabulary - 1), vocabulary, (2, WIDTH), generator=generator)
    return ids.to(device)


def refuse_causal(model: nn.Module, call: Callable[..., Any]) -> torch.Tensor:
    """Refuse a model whose tokens see none behind them, not even in their block.

    Returns:
        The model's own logits of the probe's ids.

    Raises:
        DcacheError: the first token's logits do not depend on the last token, nor on the second.
    """
    ids = probe_ids(model)
    plain = logits_of(call(input_ids=ids))
    for position in (WIDTH - 1, 1):
        changed = ids.clone()
        changed[:, position] = torch.where(ids[:, position] == 3, 4, 3)
        if bool((call(input_ids=changed).logits[:, 0] != plain[:, 0]).any()):
            return plain
    raise DcacheError(
        f"{type(model).__name__} is causal: a token does not see those behind it, so it is no "
        "masked-diffusion model. For its KV cache write dcache.enable(model, 'snapkv', budget=0.25); a "
        "bidirectional model of a causal class has config.is_causal=False."
    )


def _check(binding: Binding, call: Callable[..., Any], ids: torch.Tensor, plain: torch.Tensor) -> str | None:
    """Why this binding does not fit: None where a full pass and ragged rows give the model's own logits."""
    store, masks = KVStore(), Masks()
    positions = torch.arange(WIDTH, device=ids.device).expand(2, WIDTH)
    # Any error means that the binding does not fit this model: its code is unknown.
    try:
        every = Selection(torch.ones_like(ids, dtype=torch.bool))
        forward = Pass(every, store, masks)
        logits = binding.run(forward, call, {"input_ids": ids, "position_ids": positions}).logits
        if forward.calls == 0:
            return "its attention is not called"
        if not close(logits, plain):
            return "a full pass with explicit positions differs from the model's own"
        some = torch.zeros_like(every.mask)
        some[0, [1, 5, 9]] = some[1, WIDTH - 1] = True
        rows = Selection(some)
        arguments = {"input_ids": rows.take(ids), "position_ids": rows.take(positions)}
        logits = binding.run(Pass(rows, store, masks), call, arguments).logits
    except Exception as error:
        return f"{type(error).__name__} {str(error)[:80]}"
    if not close(logits[rows.named], rows.take(plain)[rows.named]):
        return "some rows by themselves differ from the same rows of a whole pass"
    return None


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether logits are the same but for rounding in their dtype."""
    tolerance = TOLERANCE.get(b.dtype, REDUCED)
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-6))
