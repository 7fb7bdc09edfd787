"""Llamas with random weights, to measure what caching costs."""

from __future__ import annotations

from typing import Any

from dcache.eval.limits import check_device


def random_llama(device: str, dtype: str, **config: Any) -> Any:
    """A Llama with random weights, always the same ones, in eval mode.

    Args:
        device: such as "cpu" or "cuda".
        dtype: of the weights.
        **config: fields of transformers' `LlamaConfig`.

    Raises:
        DcacheError: there is no such device.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    check_device(device)
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(**config))
    return model.eval().to(device, getattr(torch, dtype))
