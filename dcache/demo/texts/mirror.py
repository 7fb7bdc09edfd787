"""The mirror task: BOS, eight random digits, and the same digits backwards.

Nothing but BOS is given, so each digit is a guess until its mirror image is decoded: a row that was computed
before that, and not since, is wrong. Ids: 0 to 9 digits, 10 mask, 11 BOS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from dcache.demo.texts.config import load, text_config

if TYPE_CHECKING:
    from transformers import LlamaConfig

NAME = "mirror"
MASK, BOS = 10, 11
DIGITS, HALF = 10, 8
LENGTH = 1 + 2 * HALF
PROMPT, ANSWER = 1, 2 * HALF
QUALITY = "share of texts whose second half mirrors the first"
# What `dcache dlm` compares: block 4 leaves two decoded places of a block to be wrong about.
POLICIES = (
    "dkv:refresh=8;dkv:refresh=0;dkv:refresh=0,delay=0;dllm_cache;d2cache:masked=4;"
    "window:window=4;elastic:window=4,gamma=0.5;"
    "dual:block=4;prefix:block=4;freecache:block=4;freecache:block=4,delay=0"
)


def config() -> LlamaConfig:
    """Three layers of 64 channels; it does not learn the task without BOS."""
    return text_config(
        MASK,
        vocab_size=12,
        hidden_size=64,
        intermediate_size=128,
        num_key_value_heads=4,
        max_position_embeddings=64,
        bos_token_id=BOS,
    )


def texts(rows: int, generator: torch.Generator) -> torch.Tensor:
    """Ids int64 `[rows, 17]` of right texts."""
    half = torch.randint(0, DIGITS, (rows, HALF), generator=generator)
    return torch.cat([torch.full((rows, 1), BOS), half, half.flip(1)], 1)


def prompts(rows: int, seed: int = 0) -> torch.Tensor:
    """Ids int64 `[rows, 1]`: BOS alone, whatever the seed."""
    return torch.full((rows, PROMPT), BOS)


def text_of(ids: torch.Tensor) -> str:
    """The text of one row `[T]`; "?" for a masked token, "^" for BOS."""
    return "".join("0123456789?^"[index] for index in ids.tolist())


def scores(ids: torch.Tensor) -> list[float]:
    """Of each row of `[rows, 17]`: 1 where the second half mirrors the first in every place, else 0."""
    answer = ids[:, PROMPT:]
    digits = (answer < DIGITS).all(1)
    right = (answer[:, :HALF] == answer[:, HALF:].flip(1)).all(1) & digits
    return right.float().tolist()


def score(ids: torch.Tensor) -> float:
    """Mean of `scores`."""
    return sum(scores(ids)) / len(ids)


def load_model() -> Any:
    """The trained model, float32, on the CPU."""
    return load(NAME)
