"""The acrostic task: five initials are given, five words with these initials are wanted.

There are many right answers, so letters that are decoded in parallel have to agree with each other. The words
are the commonest of three to six letters in Python's own help texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from dcache.demo.texts.config import load, text_config

if TYPE_CHECKING:
    from transformers import LlamaConfig

NAME = "acrostic"
_WORDS = (
    "the and for are object that class not with value method can type self name from module used list string "
    "other this will one which when only may same return code all should also values types except any key "
    "clause its built must called have using suite set but block number new first str tuple names has then "
    "they raised such call given case try items result format global keys see does than raise there two more "
    "base range import was line syntax target print empty use length item within local point def dict order "
    "left"
)
WORDS = tuple(_WORDS.split(" "))
COUNT, LONGEST = 5, 6
CHARACTERS = "abcdefghijklmnopqrstuvwxyz =."
MASK = len(CHARACTERS)
PROMPT = COUNT + 1
ANSWER = COUNT * (LONGEST + 1) - 1
LENGTH = PROMPT + ANSWER
QUALITY = "share of words that are in the list and have their initial"
# What `dcache dlm` compares.
POLICIES = (
    "dkv:refresh=8;dkv:refresh=0;dkv:refresh=0,delay=0;dllm_cache;d2cache:masked=8;"
    "window:window=4;elastic:window=4,gamma=0.5;elastic:window=8,gamma=0.5;"
    "dual:block=8;prefix:block=8;freecache:block=8;freecache:block=8,delay=0"
)
_IDS = {character: index for index, character in enumerate(CHARACTERS)}


def config() -> LlamaConfig:
    """Three layers of 96 channels, two KV heads for four query heads."""
    return text_config(
        MASK,
        vocab_size=MASK + 1,
        hidden_size=96,
        intermediate_size=256,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )


def texts(rows: int, generator: torch.Generator) -> torch.Tensor:
    """Ids int64 `[rows, 40]`: initials, "=", the words with spaces between, filled up with dots."""
    picks = torch.randint(0, len(WORDS), (rows, COUNT), generator=generator).tolist()
    return torch.tensor([_encoded([WORDS[index] for index in row]) for row in picks])


def prompts(rows: int, seed: int = 77) -> torch.Tensor:
    """Ids int64 `[rows, 6]`: the initials of five words and "="."""
    return texts(rows, torch.Generator().manual_seed(seed))[:, :PROMPT]


def text_of(ids: torch.Tensor) -> str:
    """The text of one row `[T]`; "?" for a masked token."""
    return "".join(CHARACTERS[index] if index < MASK else "?" for index in ids.tolist())


def scores(ids: torch.Tensor) -> list[float]:
    """Of each row of `[rows, 40]`: share of the words that are in the list and have their initial."""
    return [_score(text_of(row)) for row in ids]


def score(ids: torch.Tensor) -> float:
    """Mean of `scores`."""
    return sum(scores(ids)) / len(ids)


def load_model() -> Any:
    """The trained model, float32, on the CPU."""
    return load(NAME)


def _encoded(words: list[str]) -> list[int]:
    answer = " ".join(words).ljust(ANSWER, ".")
    return [_IDS[character] for character in "".join(word[0] for word in words) + "=" + answer]


def _score(text: str) -> float:
    words = text[PROMPT:].rstrip(".").split(" ")
    # Words beyond the initials lower the share.
    pairs = zip(words, text[:COUNT], strict=False)
    right = sum(word in _KNOWN and word[0] == initial for word, initial in pairs)
    return min(right, COUNT) / max(COUNT, len(words))


_KNOWN = frozenset(WORDS)
