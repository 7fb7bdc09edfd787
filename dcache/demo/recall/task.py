"""Associative recall: a context of key-value pairs among filler, then every key again, with its value.

Tokens: 0 begins, 1 to 4 are filler, 8 to 71 keys, 72 to 135 values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dcache.demo.data import folder
from dcache.eval.language.task import Context, Question

# Tokens of a context and its pairs, as many as the model was trained on.
TOKENS, PAIRS = 240, 32
VOCABULARY, KEYS, FIRST_KEY, FIRST_VALUE = 136, 64, 8, 72


def recall_batch(
    context: int, pairs: int, rows: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Ids int64 `[rows, 1 + context + 2 * pairs]`: the context, then all pairs in another order."""
    ids = torch.randint(1, 5, (rows, context), generator=generator)
    shuffled = [torch.randperm(KEYS, generator=generator)[:pairs] for _ in range(rows)]
    keys = torch.stack(shuffled) + FIRST_KEY
    values = torch.randint(0, KEYS, (rows, pairs), generator=generator) + FIRST_VALUE
    places = [torch.randperm(context // 2, generator=generator)[:pairs].sort().values for _ in range(rows)]
    slots = torch.stack(places) * 2
    ids.scatter_(1, slots, keys)
    ids.scatter_(1, slots + 1, values)
    order = torch.stack([torch.randperm(pairs, generator=generator) for _ in range(rows)])
    asked = torch.stack([keys.gather(1, order), values.gather(1, order)], -1).reshape(rows, 2 * pairs)
    return torch.cat([torch.zeros(rows, 1, dtype=torch.long), ids, asked], 1)


def recall_config() -> Any:
    """Two layers, untied embeddings and a wide initialisation: with the usual ones it does not learn."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=128,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=None,
    )


def model_path() -> Path:
    """The folder of the trained model."""
    return folder("recall")


def load_model() -> Any:
    """The trained model, float32, on the CPU."""
    from transformers import LlamaForCausalLM

    model: Any = LlamaForCausalLM.from_pretrained(model_path())
    return model.eval()


def contexts(count: int, questions: int, seed: int) -> list[Context]:
    """Contexts of 241 tokens, each with questions of one token whose answer is one token.

    Args:
        count: number of contexts.
        questions: questions to each, at most 32.
        seed: seed of the contexts.
    """
    ids = recall_batch(TOKENS, PAIRS, count, torch.Generator().manual_seed(seed))
    texts, asked = ids[:, : TOKENS + 1].tolist(), ids[:, TOKENS + 1 :].tolist()
    return [
        Context(
            tuple(text),
            tuple(Question((pairs[2 * i],), (pairs[2 * i + 1],)) for i in range(min(questions, PAIRS))),
        )
        for text, pairs in zip(texts, asked, strict=True)
    ]
