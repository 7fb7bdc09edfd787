"""A masked-diffusion model with random weights, to measure what policies cost."""

from __future__ import annotations

from typing import Any

import torch

from dcache.eval.diffusion_lm.subject import RowSubject
from dcache.eval.random_llama import random_llama

PROMPT, NEW, VOCABULARY = 128, 128, 4096


def random_subject(device: str = "cpu", dtype: str = "float32", **more: Any) -> RowSubject:
    """A bidirectional Llama: width 512, 8 layers of 8 heads, 4096 tokens; it has no prompts and no scores.

    Args:
        device: such as "cpu" or "cuda".
        dtype: of the weights.
        **more: fields of the config that take the place of these.

    Raises:
        DcacheError: there is no such device.
    """
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    }
    rest: dict[str, Any] = {"is_causal": False, "mask_token_id": VOCABULARY - 1, "eos_token_id": None}
    model = random_llama(device, dtype, **{**shape, **rest, **more})
    return RowSubject("random", model, lambda _count, _length: [], NEW, NEW, 0.0, "", "")


def prompts(subject: RowSubject, batch: int) -> torch.Tensor:
    """Ids int64 `[batch, 128]` of random tokens, none of them the mask token."""
    generator = torch.Generator().manual_seed(0)
    size = subject.model.config.vocab_size - 1
    return torch.randint(0, size, (batch, PROMPT), generator=generator).to(subject.model.device)
