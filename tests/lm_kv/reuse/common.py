"""Three chunks of one text, a question to it, and what the whole prefill gives."""

from functools import cache
from typing import Any

import torch

from dcache import lm_kv
from tests.lm_kv.language_models import generate, llama

GENERATOR = torch.Generator().manual_seed(0)
PARTS = [torch.randint(2, 97, (1, size), generator=GENERATOR) for size in (9, 14, 11)]
QUESTION = torch.randint(2, 97, (1, 5), generator=GENERATOR)
NEW = torch.randint(2, 97, (1, 7), generator=GENERATOR)


@cache
def _model(layers: int) -> Any:
    return llama(layers)


def usual(layers: int = 3) -> Any:
    """The usual model, the same object each time."""
    return _model(layers)


@cache
def chunks(layers: int = 3) -> list[lm_kv.Chunk]:
    """The parts, each computed by itself."""
    return [lm_kv.encode(usual(layers), part) for part in PARTS]


def whole(model: Any, *parts: torch.Tensor) -> torch.Tensor:
    """Logits `[1, 12, vocabulary]` behind the parts and the question, all computed."""
    ids = torch.cat([*parts, QUESTION], 1)
    return generate(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, None)[1]


def behind(model: Any, joined: lm_kv.Joined) -> torch.Tensor:
    """Logits `[B, 12, vocabulary]` behind what was joined and the question."""
    return generate(model, joined.inputs(QUESTION), joined.cache)[1]


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Alike but for the order of sums."""
    torch.testing.assert_close(actual, expected, atol=1.5e-5, rtol=0)
